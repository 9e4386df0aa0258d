module raftsched/exportfile

go 1.21
