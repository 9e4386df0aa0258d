// Package local keeps the tasks that a worker has, in memory.
package local

import (
	"context"
	"strconv"
	"sync"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
)

type pending[T any] struct {
	mutex   sync.Mutex
	waiting map[string]chan T
}

func (p *pending[T]) open(key string) chan T {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	answer := make(chan T, 1)
	p.waiting[key] = answer
	return answer
}

func (p *pending[T]) take(key string) chan T {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	answer := p.waiting[key]
	delete(p.waiting, key)
	return answer
}

// wait ends with an answer, or with a closed channel if the task was cancelled.
func (p *pending[T]) wait(key string) func(context.Context) (T, error) {
	answer := p.open(key)
	return func(ctx context.Context) (got T, err error) {
		select {
		case got, ok := <-answer:
			if !ok {
				return got, api.ErrTaskCancelled
			}
			return got, nil
		case <-ctx.Done():
			p.take(key)
			return got, ctx.Err()
		}
	}
}

func (p *pending[T]) complete(key string, got T, unknown error) error {
	answer := p.take(key)
	if answer == nil {
		return unknown
	}
	answer <- got
	return nil
}

func (p *pending[T]) cancel(key string, unknown error) error {
	answer := p.take(key)
	if answer == nil {
		return unknown
	}
	close(answer)
	return nil
}

type TasksBackend struct {
	workflows  pending[*protos.WorkflowResponse]
	activities pending[*protos.ActivityResponse]
}

func NewTasksBackend() *TasksBackend {
	return &TasksBackend{
		workflows:  pending[*protos.WorkflowResponse]{waiting: map[string]chan *protos.WorkflowResponse{}},
		activities: pending[*protos.ActivityResponse]{waiting: map[string]chan *protos.ActivityResponse{}},
	}
}

func activityKey(id string, task int32) string { return id + "/" + strconv.Itoa(int(task)) }

func (b *TasksBackend) CancelActivityTask(_ context.Context, id api.InstanceID, task int32) error {
	return b.activities.cancel(activityKey(string(id), task), api.UnknownTaskID())
}

func (b *TasksBackend) CancelWorkflowTask(_ context.Context, id api.InstanceID) error {
	return b.workflows.cancel(string(id), api.UnknownInstanceID())
}

func (b *TasksBackend) CompleteActivityTask(_ context.Context, response *protos.ActivityResponse) error {
	return b.activities.complete(activityKey(response.GetInstanceId(), response.GetTaskId()), response, api.UnknownTaskID())
}

func (b *TasksBackend) CompleteWorkflowTask(_ context.Context, response *protos.WorkflowResponse) error {
	return b.workflows.complete(response.GetInstanceId(), response, api.UnknownInstanceID())
}

func (b *TasksBackend) WaitForActivityCompletion(request *protos.ActivityRequest) func(context.Context) (*protos.ActivityResponse, error) {
	return b.activities.wait(activityKey(request.GetWorkflowInstance().GetInstanceId(), request.GetTaskId()))
}

func (b *TasksBackend) WaitForWorkflowTaskCompletion(request *protos.WorkflowRequest) func(context.Context) (*protos.WorkflowResponse, error) {
	return b.workflows.wait(request.GetInstanceId())
}
