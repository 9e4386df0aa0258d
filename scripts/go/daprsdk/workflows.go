package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/workflow"
	"github.com/dapr/go-sdk/client"
)

const (
	helper  = "gohelper" // the id of the app that "helper" is
	timer   = 2 * time.Second
	remotes = 10
)

var doubled atomic.Int32

func twice(ctx workflow.ActivityContext) (any, error) {
	var number int
	if err := ctx.GetInput(&number); err != nil {
		return nil, err
	}
	doubled.Add(1)
	return number * 2, nil
}

// sleeps waits for a timer and doubles its input.
func sleeps(ctx *workflow.WorkflowContext) (any, error) {
	var number int
	if err := ctx.GetInput(&number); err != nil {
		return nil, err
	}
	if err := ctx.CreateTimer(timer).Await(nil); err != nil {
		return nil, err
	}
	err := ctx.CallActivity(twice, workflow.WithActivityInput(number)).Await(&number)
	return number, err
}

// asks has another app double its input, and double it again in a workflow of its own.
func asks(ctx *workflow.WorkflowContext) (any, error) {
	var number int
	if err := ctx.GetInput(&number); err != nil {
		return nil, err
	}
	of := workflow.WithActivityAppID(helper)
	if err := ctx.CallActivity("twice", workflow.WithActivityInput(number), of).Await(&number); err != nil {
		return nil, err
	}
	child := ctx.CallChildWorkflow("sleeps", workflow.WithChildWorkflowInput(number), workflow.WithChildWorkflowAppID(helper))
	err := child.Await(&number)
	return number, err
}

func registered(known ...workflow.Workflow) *workflow.Registry {
	registry := workflow.NewRegistry()
	ok(registry.AddActivityN("twice", twice))
	for _, one := range known {
		ok(registry.AddWorkflow(one))
	}
	return registry
}

// worker has the sidecar's workflows done here.
func worker(ctx context.Context, known ...workflow.Workflow) *workflow.Client {
	connect(ctx)
	flows, err := client.NewWorkflowClient()
	ok(err)
	ok(flows.StartWorker(ctx, registered(known...)))
	return flows
}

// helpOthers is the other app, until it is killed.
func helpOthers(ctx context.Context, _ string) {
	worker(ctx, sleeps)
	fmt.Println("helping")
	select {}
}

func workflows(ctx context.Context, _ string) {
	flows := worker(ctx, sleeps, asks)
	first := start(ctx, flows, "sleeps", 21)
	ended(ctx, flows, first, "42")
	fmt.Println("timers")
	done := append(rerun(ctx, flows, first), first, start(ctx, flows, "asks", 3))
	ended(ctx, flows, done[len(done)-1], "12")
	check(doubled.Load() == 3, "activities that were the other app's ran here: %d", doubled.Load())
	fmt.Println("apps")
	done = append(done, faults(ctx, flows)...)
	for _, id := range done {
		ok(flows.PurgeWorkflowState(ctx, id, workflow.WithRecursivePurge(true)))
	}
	fmt.Println("purging")
}

func start(ctx context.Context, flows *workflow.Client, name string, input int) string {
	id, err := flows.ScheduleWorkflow(ctx, name, workflow.WithInput(input))
	ok(err)
	return id
}

func ended(ctx context.Context, flows *workflow.Client, id string, output string) {
	bounded, cancel := context.WithTimeout(ctx, 2*wait)
	defer cancel()
	state, err := flows.WaitForWorkflowCompletion(bounded, id, workflow.WithFetchPayloads(true))
	ok(err)
	got := state.Output.GetValue()
	completed := state.RuntimeStatus == protos.OrchestrationStatus_ORCHESTRATION_STATUS_COMPLETED
	check(completed && got == output, "%s: %s %q", id, state, got)
}

// rerun goes on from two events of a workflow that has ended: its activity, with another input, and its timer, which is due by now.
func rerun(ctx context.Context, flows *workflow.Client, id string) []string {
	history, err := flows.GetInstanceHistory(ctx, id)
	ok(err)
	var again []string
	for _, event := range history.Events {
		var made string
		switch {
		case event.GetTaskScheduled() != nil:
			made, err = flows.RerunWorkflowFromEvent(ctx, id, uint32(event.EventId), workflow.WithRerunInput(4))
			ok(err)
			ended(ctx, flows, made, "8")
		case event.GetTimerCreated() != nil:
			made, err = flows.RerunWorkflowFromEvent(ctx, id, uint32(event.EventId))
			ok(err)
			ended(ctx, flows, made, "42")
		default:
			continue
		}
		again = append(again, made)
	}
	check(len(again) == 2 && doubled.Load() == 3, "rerun %v, %d activities", again, doubled.Load())
	fmt.Println("reruns")
	return again
}

func faults(ctx context.Context, flows *workflow.Client) []string {
	var begun []string
	for number := range remotes {
		begun = append(begun, start(ctx, flows, "asks", number))
	}
	fmt.Println("fault") // whoever started this may kill a scheduler now
	for number, id := range begun {
		ended(ctx, flows, id, fmt.Sprint(number*4))
	}
	fmt.Println("many")
	return begun
}
