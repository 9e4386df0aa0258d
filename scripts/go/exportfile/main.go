// Export files of `dapr scheduler`, by Go's own encoding/gob: `exportfile write FILE COUNT` makes one, `exportfile read FILE` tells one as JSON.
package main

import (
	"encoding/gob"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
)

type schedulerExportFile struct {
	Jobs     map[string][]byte
	Counters map[string][]byte
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(words []string) error {
	if len(words) == 3 && words[0] == "write" {
		count, err := strconv.Atoi(words[2])
		if err != nil {
			return err
		}
		return write(words[1], count)
	}
	if len(words) == 2 && words[0] == "read" {
		return read(words[1])
	}
	return fmt.Errorf("exportfile write FILE COUNT | exportfile read FILE")
}

func write(path string, count int) error {
	made := schedulerExportFile{Jobs: map[string][]byte{}, Counters: map[string][]byte{}}
	for number := 0; number < count; number++ {
		name := fmt.Sprintf("app||default||app||job-%d", number)
		made.Jobs["dapr/jobs/"+name] = make([]byte, number)
		if number%2 == 0 {
			made.Counters["dapr/counters/"+name] = []byte(name)
		}
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return gob.NewEncoder(file).Encode(&made)
}

func read(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	var found schedulerExportFile
	if err := gob.NewDecoder(file).Decode(&found); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}
