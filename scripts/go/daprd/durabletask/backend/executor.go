package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

type executor struct {
	protos.UnimplementedTaskHubSidecarServiceServer

	backend      Backend
	items        chan *protos.WorkItem
	connected    func(context.Context) error
	disconnected func(context.Context) error
	shutdown     <-chan any

	mutex sync.Mutex
	given map[string]func(context.Context) error // what a worker has and has not answered: how to cancel it
}

type grpcExecutorOptions func(*executor)

func WithOnGetWorkItemsConnectionCallback(call func(context.Context) error) grpcExecutorOptions {
	return func(e *executor) { e.connected = call }
}

func WithOnGetWorkItemsDisconnectCallback(call func(context.Context) error) grpcExecutorOptions {
	return func(e *executor) { e.disconnected = call }
}

func WithStreamShutdownChannel(shutdown <-chan any) grpcExecutorOptions {
	return func(e *executor) { e.shutdown = shutdown }
}

// WithStreamSendTimeout bounds nothing here: the app of a test reads.
func WithStreamSendTimeout(time.Duration) grpcExecutorOptions { return func(*executor) {} }

// NewGrpcExecutor runs an app's code over the stream that its SDK has opened.
func NewGrpcExecutor(b Backend, _ Logger, opts ...grpcExecutorOptions) (Executor, func(grpc.ServiceRegistrar)) {
	e := &executor{backend: b, items: make(chan *protos.WorkItem), given: map[string]func(context.Context) error{}}
	for _, option := range opts {
		option(e)
	}
	return e, func(server grpc.ServiceRegistrar) { protos.RegisterTaskHubSidecarServiceServer(server, e) }
}

func (e *executor) ExecuteWorkflow(ctx context.Context, request *protos.WorkflowRequest) (*protos.WorkflowResponse, error) {
	wait := e.backend.WaitForWorkflowTaskCompletion(request)
	return ask(ctx, e, &protos.WorkItem{Request: &protos.WorkItem_WorkflowRequest{WorkflowRequest: request}}, wait)
}

func (e *executor) ExecuteActivity(ctx context.Context, request *protos.ActivityRequest) (*protos.ActivityResponse, error) {
	wait := e.backend.WaitForActivityCompletion(request)
	return ask(ctx, e, &protos.WorkItem{Request: &protos.WorkItem_ActivityRequest{ActivityRequest: request}}, wait)
}

func ask[T any](ctx context.Context, e *executor, item *protos.WorkItem, wait func(context.Context) (T, error)) (answer T, err error) {
	select {
	case e.items <- item:
		return wait(ctx)
	case <-ctx.Done():
		return answer, ctx.Err()
	}
}

func (e *executor) Hello(context.Context, *emptypb.Empty) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

// GetWorkItems lasts as long as the SDK's worker, of which there is one. What it was given and has not answered is cancelled with it.
func (e *executor) GetWorkItems(_ *protos.GetWorkItemsRequest, stream grpc.ServerStreamingServer[protos.WorkItem]) error {
	ctx := stream.Context()
	if err := e.connected(ctx); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	defer e.disconnect(context.WithoutCancel(ctx))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.shutdown:
			return status.Error(codes.Unavailable, "the sidecar stops")
		case item := <-e.items:
			e.give(e.cancelling(item))
			if err := stream.Send(item); err != nil {
				return err
			}
		}
	}
}

func (e *executor) give(key string, cancel func(context.Context) error) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.given[key] = cancel
}

func (e *executor) answered(key string) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	delete(e.given, key)
}

func (e *executor) disconnect(ctx context.Context) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	for _, cancel := range e.given {
		_ = cancel(ctx)
	}
	clear(e.given)
	_ = e.disconnected(ctx)
}

func (e *executor) cancelling(item *protos.WorkItem) (string, func(context.Context) error) {
	if request := item.GetWorkflowRequest(); request != nil {
		id := request.GetInstanceId()
		return id, func(ctx context.Context) error { return e.backend.CancelWorkflowTask(ctx, api.InstanceID(id)) }
	}
	id, task := item.GetActivityRequest().GetWorkflowInstance().GetInstanceId(), item.GetActivityRequest().GetTaskId()
	return GetActivityExecutionKey(id, task), func(ctx context.Context) error {
		return e.backend.CancelActivityTask(ctx, api.InstanceID(id), task)
	}
}

func (e *executor) CompleteActivityTask(ctx context.Context, r *protos.ActivityResponse) (*protos.CompleteTaskResponse, error) {
	e.answered(GetActivityExecutionKey(r.GetInstanceId(), r.GetTaskId()))
	return &protos.CompleteTaskResponse{}, e.backend.CompleteActivityTask(ctx, r)
}

func (e *executor) CompleteWorkflowTask(ctx context.Context, r *protos.WorkflowResponse) (*protos.CompleteTaskResponse, error) {
	e.answered(r.GetInstanceId())
	return &protos.CompleteTaskResponse{}, e.backend.CompleteWorkflowTask(ctx, r)
}

func (e *executor) CompleteOrchestratorTask(ctx context.Context, r *protos.WorkflowResponse) (*protos.CompleteTaskResponse, error) {
	return e.CompleteWorkflowTask(ctx, r)
}

func (e *executor) StartInstance(ctx context.Context, r *protos.CreateInstanceRequest) (*protos.CreateInstanceResponse, error) {
	id, err := create(ctx, e.backend, r)
	return &protos.CreateInstanceResponse{InstanceId: string(id)}, err
}

func (e *executor) GetInstance(ctx context.Context, r *protos.GetInstanceRequest) (*protos.GetInstanceResponse, error) {
	metadata, err := e.backend.GetWorkflowMetadata(ctx, api.InstanceID(r.GetInstanceId()))
	if errors.Is(err, api.ErrInstanceNotFound) {
		return &protos.GetInstanceResponse{}, nil
	}
	return described(metadata), err
}

func (e *executor) WaitForInstanceStart(ctx context.Context, r *protos.GetInstanceRequest) (*protos.GetInstanceResponse, error) {
	return e.waitFor(ctx, r, func(m *WorkflowMetadata) bool {
		return m.GetRuntimeStatus() != protos.OrchestrationStatus_ORCHESTRATION_STATUS_PENDING
	})
}

func (e *executor) WaitForInstanceCompletion(ctx context.Context, r *protos.GetInstanceRequest) (*protos.GetInstanceResponse, error) {
	return e.waitFor(ctx, r, api.WorkflowMetadataIsComplete)
}

func (e *executor) waitFor(
	ctx context.Context, r *protos.GetInstanceRequest, is func(*WorkflowMetadata) bool,
) (*protos.GetInstanceResponse, error) {
	var seen *WorkflowMetadata
	err := e.backend.WatchWorkflowRuntimeStatus(ctx, api.InstanceID(r.GetInstanceId()), func(m *WorkflowMetadata) bool {
		seen = m
		return is(m)
	})
	return described(seen), err
}

func described(m *WorkflowMetadata) *protos.GetInstanceResponse {
	if m == nil {
		return &protos.GetInstanceResponse{}
	}
	return &protos.GetInstanceResponse{Exists: true, WorkflowState: &protos.WorkflowState{
		InstanceId: m.InstanceId, Name: m.Name, WorkflowStatus: m.RuntimeStatus, CreatedTimestamp: m.CreatedAt,
		LastUpdatedTimestamp: m.LastUpdatedAt, Input: m.Input, Output: m.Output, CustomStatus: m.CustomStatus, FailureDetails: m.FailureDetails,
	}}
}

func (e *executor) RaiseEvent(ctx context.Context, r *protos.RaiseEventRequest) (*protos.RaiseEventResponse, error) {
	return &protos.RaiseEventResponse{}, raise(ctx, e.backend, r)
}

func (e *executor) TerminateInstance(ctx context.Context, r *protos.TerminateRequest) (*protos.TerminateResponse, error) {
	return &protos.TerminateResponse{}, terminate(ctx, e.backend, r)
}

func (e *executor) PurgeInstances(ctx context.Context, r *protos.PurgeInstancesRequest) (*protos.PurgeInstancesResponse, error) {
	count, err := e.backend.PurgeWorkflowState(ctx, api.InstanceID(r.GetInstanceId()), nil, r.GetForce())
	return &protos.PurgeInstancesResponse{DeletedInstanceCount: int32(count)}, err
}
