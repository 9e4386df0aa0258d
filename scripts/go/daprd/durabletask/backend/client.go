package backend

import (
	"context"
	"errors"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TaskHubClient starts, steers and asks after workflows.
type TaskHubClient interface {
	ScheduleNewWorkflow(context.Context, any, ...api.NewWorkflowOptions) (api.InstanceID, error)
	FetchWorkflowMetadata(context.Context, api.InstanceID) (*WorkflowMetadata, error)
	TerminateWorkflow(context.Context, api.InstanceID, ...api.TerminateOptions) error
	RaiseEvent(context.Context, api.InstanceID, string, ...api.RaiseEventOptions) error
	SuspendWorkflow(context.Context, api.InstanceID, string) error
	ResumeWorkflow(context.Context, api.InstanceID, string) error
	PurgeWorkflowState(context.Context, api.InstanceID, ...api.PurgeOptions) error
}

type client struct{ backend Backend }

func NewTaskHubClient(b Backend) TaskHubClient { return &client{b} }

func (c *client) ScheduleNewWorkflow(ctx context.Context, name any, opts ...api.NewWorkflowOptions) (api.InstanceID, error) {
	request := &protos.CreateInstanceRequest{}
	if request.Name, _ = name.(string); request.Name == "" {
		return "", errors.New("a workflow name is required")
	}
	for _, option := range opts {
		option(request)
	}
	return create(ctx, c.backend, request)
}

func create(ctx context.Context, b Backend, request *protos.CreateInstanceRequest) (api.InstanceID, error) {
	if request.InstanceId == "" {
		request.InstanceId = uuid.NewString()
	}
	err := b.CreateWorkflowInstance(ctx, event(-1, &HistoryEvent{EventType: &protos.HistoryEvent_ExecutionStarted{
		ExecutionStarted: &protos.ExecutionStartedEvent{
			Name:    request.Name,
			Version: request.Version,
			Input:   request.Input,
			Tags:    request.Tags,
			WorkflowInstance: &protos.WorkflowInstance{
				InstanceId:  request.InstanceId,
				ExecutionId: wrapperspb.String(uuid.NewString()),
			},
			ParentTraceContext:      request.ParentTraceContext,
			ScheduledStartTimestamp: request.ScheduledStartTimestamp,
		},
	}}))
	return api.InstanceID(request.InstanceId), err
}

// event is `made` with the id and the present time.
func event(id int32, made *HistoryEvent) *HistoryEvent {
	made.EventId, made.Timestamp = id, timestamppb.Now()
	return made
}

func (c *client) FetchWorkflowMetadata(ctx context.Context, id api.InstanceID) (*WorkflowMetadata, error) {
	return c.backend.GetWorkflowMetadata(ctx, id)
}

func (c *client) TerminateWorkflow(ctx context.Context, id api.InstanceID, opts ...api.TerminateOptions) error {
	request := &protos.TerminateRequest{InstanceId: string(id)}
	for _, option := range opts {
		option(request)
	}
	return terminate(ctx, c.backend, request)
}

func terminate(ctx context.Context, b Backend, request *protos.TerminateRequest) error {
	return b.AddNewWorkflowEvent(ctx, api.InstanceID(request.InstanceId), event(-1, &HistoryEvent{
		EventType: &protos.HistoryEvent_ExecutionTerminated{
			ExecutionTerminated: &protos.ExecutionTerminatedEvent{Input: request.Output, Recurse: request.Recursive},
		},
	}))
}

func (c *client) RaiseEvent(ctx context.Context, id api.InstanceID, name string, opts ...api.RaiseEventOptions) error {
	request := &protos.RaiseEventRequest{InstanceId: string(id), Name: name}
	for _, option := range opts {
		option(request)
	}
	return raise(ctx, c.backend, request)
}

func raise(ctx context.Context, b Backend, request *protos.RaiseEventRequest) error {
	return b.AddNewWorkflowEvent(ctx, api.InstanceID(request.InstanceId), event(-1, &HistoryEvent{
		EventType: &protos.HistoryEvent_EventRaised{EventRaised: &protos.EventRaisedEvent{Name: request.Name, Input: request.Input}},
	}))
}

func (c *client) SuspendWorkflow(ctx context.Context, id api.InstanceID, reason string) error {
	return c.backend.AddNewWorkflowEvent(ctx, id, event(-1, &HistoryEvent{
		EventType: &protos.HistoryEvent_ExecutionSuspended{
			ExecutionSuspended: &protos.ExecutionSuspendedEvent{Input: wrapperspb.String(reason)},
		},
	}))
}

func (c *client) ResumeWorkflow(ctx context.Context, id api.InstanceID, reason string) error {
	return c.backend.AddNewWorkflowEvent(ctx, id, event(-1, &HistoryEvent{
		EventType: &protos.HistoryEvent_ExecutionResumed{
			ExecutionResumed: &protos.ExecutionResumedEvent{Input: wrapperspb.String(reason)},
		},
	}))
}

func (c *client) PurgeWorkflowState(ctx context.Context, id api.InstanceID, _ ...api.PurgeOptions) error {
	_, err := c.backend.PurgeWorkflowState(ctx, id, nil, false)
	return err
}
