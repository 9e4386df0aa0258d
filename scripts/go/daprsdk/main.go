// Daprsdk does what programs do with Dapr's SDK for Go, beside a sidecar of which DAPR_GRPC_PORT tells the port. It prints a word for
// each thing that it has done, and ends with 1 at the first that was not as it should be.
//
//	daprsdk jobs <port>       jobs over gRPC: the app's side at the port, and the client's
//	daprsdk actors <port>     actors that an app hosts over HTTP at the port, with reminders
//	daprsdk events <port>     the same actors, hosted over a stream to the sidecar
//	daprsdk workflows <port>  workflows that are run again from an event, and that call those of another app
//	daprsdk helper <port>     that other app
//
// Where no app listens, the port is not used.
package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/dapr/go-sdk/client"
)

const (
	wait   = 60 * time.Second
	settle = 3 * time.Second
	poll   = 50 * time.Millisecond
)

var programs = map[string]func(context.Context, string){
	"jobs": jobs, "actors": actorsOverHTTP, "events": actorsOverStream, "workflows": workflows, "helper": helpOthers,
}

func main() {
	if len(os.Args) != 3 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: daprsdk jobs|actors|events|workflows|helper <port>")
		os.Exit(2)
	}
	programs[os.Args[1]](context.Background(), os.Args[2])
}

// check ends the program unless what is said holds.
func check(holds bool, format string, what ...any) {
	if !holds {
		fmt.Fprintf(os.Stderr, format+"\n", what...)
		os.Exit(1)
	}
}

func ok(err error) { check(err == nil, "%v", err) }

func until(holds func() bool, what string) {
	for end := time.Now().Add(wait); !holds(); time.Sleep(poll) {
		check(time.Now().Before(end), "not within %s: %s", wait, what)
	}
}

// connect waits for the sidecar, which itself waits for the app.
func connect(ctx context.Context) client.Client {
	var dapr client.Client
	until(func() (connected bool) {
		made, err := client.NewClient()
		dapr = made
		return err == nil
	}, "a connection to the sidecar")
	ok(dapr.Wait(ctx, wait))
	return dapr
}

// call is one that the sidecar made.
type call struct {
	at   time.Time
	data string
}

// calls are those of each name.
type calls struct {
	mutex sync.Mutex
	made  map[string][]call
}

func (c *calls) note(name string, data []byte) int {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.made[name] = append(c.made[name], call{time.Now(), string(data)})
	return len(c.made[name])
}

func (c *calls) of(name string) []call {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.made[name]
}

func (c *calls) count(name string) int { return len(c.of(name)) }
