package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprd "github.com/dapr/go-sdk/service/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var errNotYet = errors.New("not yet")

func jobs(ctx context.Context, port string) {
	seen := &calls{made: map[string][]call{}}
	service, err := daprd.NewService("127.0.0.1:" + port)
	ok(err)
	ok(service.AddJobEventHandler("once", taking(seen, func(int) error { return nil })))
	ok(service.AddJobEventHandler("often", taking(seen, func(int) error { return nil })))
	ok(service.AddJobEventHandler("dropped", taking(seen, func(int) error { return errNotYet })))
	ok(service.AddJobEventHandler("fails", taking(seen, func(count int) error {
		if count < 3 {
			return errNotYet
		}
		return nil
	})))
	go func() { ok(service.Start()) }()
	dapr := connect(ctx)
	triggers(ctx, dapr, seen)
	repeats(ctx, dapr, seen)
	policies(ctx, dapr, seen)
	overwriting(ctx, dapr)
	ok(service.Stop())
}

// taking notes each trigger, and answers what the number of triggers so far says.
func taking(seen *calls, answer func(int) error) common.JobEventHandler {
	return func(_ context.Context, event *common.JobEvent) error {
		return answer(seen.note(event.JobType, event.Data))
	}
}

func triggers(ctx context.Context, dapr client.Client, seen *calls) {
	data, err := anypb.New(wrapperspb.String("grün"))
	ok(err)
	began := time.Now()
	ok(dapr.ScheduleJob(ctx, client.NewJob("once", client.WithJobDueTime("2s"), client.WithJobData(data))))
	until(func() bool { return seen.count("once") > 0 }, "a trigger")
	got := seen.of("once")[0]
	check(got.at.Sub(began) >= 2*time.Second, "%s early", 2*time.Second-got.at.Sub(began))
	check(strings.Contains(got.data, "grün"), "data: %q", got.data)
	// a job that is done goes once the sidecar has said that the app took its trigger, which the app cannot see
	until(func() bool { _, err := dapr.GetJob(ctx, "once"); return err != nil }, "the job is gone")
	check(seen.count("once") == 1, "%d triggers of once", seen.count("once"))
	fmt.Println("triggers")
}

func repeats(ctx context.Context, dapr client.Client, seen *calls) {
	ok(dapr.ScheduleJob(ctx, client.NewJob("often",
		client.WithJobSchedule("@every 1s"), client.WithJobRepeats(3), client.WithJobTTL("1h"), client.WithJobDropFailurePolicy())))
	told, err := dapr.GetJob(ctx, "often")
	ok(err)
	same := told.Name == "often" && *told.Schedule == "@every 1s" && *told.Repeats == 3 && *told.TTL == "1h" && *told.DueTime == ""
	_, drop := told.FailurePolicy.(*client.JobFailurePolicyDrop)
	check(same && drop, "often: %+v", told)
	until(func() bool { return seen.count("often") >= 3 }, "three triggers")
	fmt.Println("repeats")
}

func policies(ctx context.Context, dapr client.Client, seen *calls) {
	ok(dapr.ScheduleJob(ctx, client.NewJob("fails", client.WithJobDueTime("0s"),
		client.WithJobConstantFailurePolicyMaxRetries(5), client.WithJobConstantFailurePolicyInterval(time.Second))))
	ok(dapr.ScheduleJob(ctx, client.NewJob("dropped", client.WithJobDueTime("0s"), client.WithJobDropFailurePolicy())))
	until(func() bool { return seen.count("fails") >= 3 && seen.count("dropped") >= 1 }, "what fails")
	time.Sleep(settle)
	for name, count := range map[string]int{"fails": 3, "dropped": 1, "often": 3} {
		check(seen.count(name) == count, "%d triggers of %s", seen.count(name), name)
	}
	fmt.Println("policies")
}

func overwriting(ctx context.Context, dapr client.Client) {
	ok(dapr.ScheduleJob(ctx, client.NewJob("taken", client.WithJobSchedule("@yearly"))))
	err := dapr.ScheduleJob(ctx, client.NewJob("taken", client.WithJobSchedule("@daily")))
	check(status.Code(err) == codes.AlreadyExists, "a job that is there: %v", err)
	again := client.NewJob("taken", client.WithJobSchedule("@daily"))
	again.Overwrite = true
	ok(dapr.ScheduleJob(ctx, again))
	told, err := dapr.GetJob(ctx, "taken")
	ok(err)
	policy, constant := told.FailurePolicy.(*client.JobFailurePolicyConstant)
	check(constant && *policy.MaxRetries == 3 && *policy.Interval == time.Second, "the default policy: %+v", told.FailurePolicy)
	check(*told.Schedule == "@daily", "taken: %+v", told)
	ok(dapr.DeleteJob(ctx, "taken"))
	_, err = dapr.GetJob(ctx, "taken")
	check(err != nil, "the job is there")
	err = dapr.ScheduleJob(ctx, client.NewJob("wrong", client.WithJobSchedule("@never")))
	check(err != nil && strings.Contains(err.Error(), "unrecognized descriptor: @never"), "a wrong schedule: %v", err)
	fmt.Println("overwriting")
}
