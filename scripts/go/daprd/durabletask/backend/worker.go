package backend

import (
	"context"
	"fmt"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend/runtimestate"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// maxContinuations of one work item: what continues as new for ever must not keep it for ever.
const maxContinuations = 20

// Executor runs an app's code: a workflow up to where it waits, or an activity.
type Executor interface {
	ExecuteWorkflow(context.Context, *protos.WorkflowRequest) (*protos.WorkflowResponse, error)
	ExecuteActivity(context.Context, *protos.ActivityRequest) (*protos.ActivityResponse, error)
}

type TaskWorker interface {
	run(context.Context)
}

type NewTaskWorkerOptions func()

// WithMaxParallelism bounds nothing here: Dapr's actors bound what they hand over.
func WithMaxParallelism(int32) NewTaskWorkerOptions { return func() {} }

type WorkflowWorkerOptions struct {
	Backend             Backend
	Executor            Executor
	InProcessExecutor   Executor
	InProcessNamePrefix string
	Logger              Logger
	AppID               string
}

type workflows struct{ WorkflowWorkerOptions }

func NewWorkflowWorker(opts WorkflowWorkerOptions, _ ...NewTaskWorkerOptions) TaskWorker {
	return &workflows{opts}
}

func (w *workflows) run(ctx context.Context) {
	for ctx.Err() == nil {
		if item, err := w.Backend.NextWorkflowWorkItem(ctx); err == nil {
			go w.work(ctx, item)
		}
	}
}

func (w *workflows) work(ctx context.Context, item *WorkflowWorkItem) {
	err := w.advance(ctx, item)
	if err != nil {
		w.Logger.Warnf("%s: %s", item.InstanceID, err)
		_ = w.Backend.AbandonWorkflowWorkItem(context.WithoutCancel(ctx), item)
		return
	}
	_ = w.Backend.CompleteWorkflowWorkItem(context.WithoutCancel(ctx), item)
}

// advance gives the workflow its new events, and takes what it decides into the state. One that continues as new goes on at once.
func (w *workflows) advance(ctx context.Context, item *WorkflowWorkItem) error {
	if err := add(item.State, item.NewEvents); err != nil {
		return err
	}
	if runtimestate.IsCompleted(item.State) {
		return nil
	}
	for range maxContinuations {
		if continued, err := w.turn(ctx, item); err != nil || !continued {
			return err
		}
	}
	return fmt.Errorf("it continued as new %d times at a stretch", maxContinuations)
}

// add lets the workflow start its work with `events`.
func add(state *WorkflowRuntimeState, events []*HistoryEvent) error {
	started := event(-1, &HistoryEvent{EventType: &protos.HistoryEvent_WorkflowStarted{WorkflowStarted: &protos.WorkflowStartedEvent{}}})
	for _, e := range append([]*HistoryEvent{started}, events...) {
		if err := runtimestate.AddEvent(state, e); err != nil {
			return err
		}
	}
	return nil
}

// turn runs the workflow's code once, and tells whether it continues as new.
func (w *workflows) turn(ctx context.Context, item *WorkflowWorkItem) (bool, error) {
	state := item.State
	response, err := w.Executor.ExecuteWorkflow(ctx, &protos.WorkflowRequest{
		InstanceId: string(item.InstanceID),
		PastEvents: state.OldEvents,
		NewEvents:  state.NewEvents,
	})
	if err != nil {
		return false, err
	}
	if response.CustomStatus != nil {
		state.CustomStatus = response.CustomStatus
	}
	for _, action := range response.Actions {
		done := action.GetCompleteWorkflow()
		if done.GetWorkflowStatus() == protos.OrchestrationStatus_ORCHESTRATION_STATUS_CONTINUED_AS_NEW {
			return true, continueAsNew(state, done)
		}
		if err = w.apply(state, action); err != nil {
			return false, err
		}
	}
	return false, nil
}

// continueAsNew leaves nothing of the state but who it is; it starts with the new input, and the events that it keeps.
func continueAsNew(state *WorkflowRuntimeState, done *protos.CompleteWorkflowAction) error {
	start := proto.Clone(state.StartEvent).(*protos.ExecutionStartedEvent)
	start.Input = done.Result
	start.WorkflowInstance.ExecutionId = wrapperspb.String(uuid.NewString())
	id, status := state.InstanceId, state.CustomStatus
	proto.Reset(state)
	state.InstanceId, state.CustomStatus, state.ContinuedAsNew = id, status, true
	started := event(-1, &HistoryEvent{EventType: &protos.HistoryEvent_ExecutionStarted{ExecutionStarted: start}})
	return add(state, append([]*HistoryEvent{started}, done.CarryoverEvents...))
}

func (w *workflows) apply(state *WorkflowRuntimeState, action *protos.WorkflowAction) error {
	switch {
	case action.GetCreateTimer() != nil:
		return addTimer(state, action.GetId(), action.GetCreateTimer())
	case action.GetScheduleTask() != nil:
		return w.addTask(state, action.GetId(), action.GetScheduleTask())
	case action.GetCompleteWorkflow() != nil:
		return w.complete(state, action.GetId(), action.GetCompleteWorkflow())
	case action.GetCreateChildWorkflow() != nil:
		return w.addChild(state, action.GetId(), action.GetCreateChildWorkflow())
	}
	return fmt.Errorf("an action of type %T is not in this build", action.GetWorkflowActionType())
}

func addTimer(state *WorkflowRuntimeState, id int32, timer *protos.CreateTimerAction) error {
	created := &protos.TimerCreatedEvent{FireAt: timer.FireAt, Name: timer.Name}
	switch origin := timer.GetOrigin().(type) {
	case *protos.CreateTimerAction_CreateTimer:
		created.Origin = &protos.TimerCreatedEvent_CreateTimer{CreateTimer: origin.CreateTimer}
	case *protos.CreateTimerAction_ExternalEvent:
		created.Origin = &protos.TimerCreatedEvent_ExternalEvent{ExternalEvent: origin.ExternalEvent}
	case *protos.CreateTimerAction_ActivityRetry:
		created.Origin = &protos.TimerCreatedEvent_ActivityRetry{ActivityRetry: origin.ActivityRetry}
	case *protos.CreateTimerAction_ChildWorkflowRetry:
		created.Origin = &protos.TimerCreatedEvent_ChildWorkflowRetry{ChildWorkflowRetry: origin.ChildWorkflowRetry}
	}
	fired := &protos.TimerFiredEvent{TimerId: id, FireAt: timer.FireAt}
	state.PendingTimers = append(state.PendingTimers, event(-1, &HistoryEvent{EventType: &protos.HistoryEvent_TimerFired{TimerFired: fired}}))
	return runtimestate.AddEvent(state, event(id, &HistoryEvent{EventType: &protos.HistoryEvent_TimerCreated{TimerCreated: created}}))
}

func (w *workflows) addTask(state *WorkflowRuntimeState, id int32, task *protos.ScheduleTaskAction) error {
	scheduled := event(id, &HistoryEvent{
		EventType: &protos.HistoryEvent_TaskScheduled{TaskScheduled: &protos.TaskScheduledEvent{
			Name: task.Name, Version: task.Version, Input: task.Input, TaskExecutionId: task.TaskExecutionId,
		}},
		Router: &protos.TaskRouter{SourceAppID: w.AppID},
	})
	state.PendingTasks = append(state.PendingTasks, scheduled)
	return runtimestate.AddEvent(state, scheduled)
}

func (w *workflows) addChild(state *WorkflowRuntimeState, id int32, child *protos.CreateChildWorkflowAction) error {
	if child.InstanceId == "" {
		child.InstanceId = fmt.Sprintf("%s:%04x", state.InstanceId, id)
	}
	created := &protos.ChildWorkflowInstanceCreatedEvent{InstanceId: child.InstanceId, Name: child.Name, Version: child.Version, Input: child.Input}
	started := &protos.ExecutionStartedEvent{
		Name: child.Name, Version: child.Version, Input: child.Input,
		WorkflowInstance: &protos.WorkflowInstance{InstanceId: child.InstanceId, ExecutionId: wrapperspb.String(uuid.NewString())},
		ParentInstance: &protos.ParentInstanceInfo{
			TaskScheduledId: id, Name: wrapperspb.String(state.StartEvent.GetName()), AppID: &w.AppID,
			WorkflowInstance: &protos.WorkflowInstance{InstanceId: state.InstanceId},
		},
	}
	w.send(state, child.InstanceId, &HistoryEvent{EventType: &protos.HistoryEvent_ExecutionStarted{ExecutionStarted: started}})
	return runtimestate.AddEvent(state, event(id, &HistoryEvent{
		EventType: &protos.HistoryEvent_ChildWorkflowInstanceCreated{ChildWorkflowInstanceCreated: created},
	}))
}

func (w *workflows) send(state *WorkflowRuntimeState, target string, message *HistoryEvent) {
	message.Router = &protos.TaskRouter{SourceAppID: w.AppID, TargetAppID: &w.AppID}
	state.PendingMessages = append(state.PendingMessages, &WorkflowRuntimeStateMessage{
		HistoryEvent: event(-1, message), TargetInstanceId: target,
	})
}

// tellParent of a child's end.
func (w *workflows) tellParent(state *WorkflowRuntimeState, done *protos.CompleteWorkflowAction) {
	parent := state.StartEvent.GetParentInstance()
	if parent == nil {
		return
	}
	message := &HistoryEvent{}
	if done.WorkflowStatus == protos.OrchestrationStatus_ORCHESTRATION_STATUS_COMPLETED {
		message.EventType = &protos.HistoryEvent_ChildWorkflowInstanceCompleted{
			ChildWorkflowInstanceCompleted: &protos.ChildWorkflowInstanceCompletedEvent{
				TaskScheduledId: parent.TaskScheduledId, Result: done.Result,
			},
		}
	} else {
		message.EventType = &protos.HistoryEvent_ChildWorkflowInstanceFailed{
			ChildWorkflowInstanceFailed: &protos.ChildWorkflowInstanceFailedEvent{
				TaskScheduledId: parent.TaskScheduledId, FailureDetails: done.FailureDetails,
			},
		}
	}
	w.send(state, parent.GetWorkflowInstance().GetInstanceId(), message)
}

func (w *workflows) complete(state *WorkflowRuntimeState, id int32, done *protos.CompleteWorkflowAction) error {
	w.tellParent(state, done)
	return runtimestate.AddEvent(state, event(id, &HistoryEvent{EventType: &protos.HistoryEvent_ExecutionCompleted{
		ExecutionCompleted: &protos.ExecutionCompletedEvent{
			WorkflowStatus: done.WorkflowStatus, Result: done.Result, FailureDetails: done.FailureDetails,
		},
	}}))
}

type activities struct {
	backend  Backend
	executor Executor
	log      Logger
}

func NewActivityTaskWorkerWithInProcess(
	b Backend, executor Executor, _ Executor, _ string, log Logger, _ ...NewTaskWorkerOptions,
) TaskWorker {
	return &activities{b, executor, log}
}

func (a *activities) run(ctx context.Context) {
	for ctx.Err() == nil {
		if item, err := a.backend.NextActivityWorkItem(ctx); err == nil {
			go a.work(ctx, item)
		}
	}
}

func (a *activities) work(ctx context.Context, item *ActivityWorkItem) {
	task, id := item.NewEvent.GetTaskScheduled(), item.NewEvent.GetEventId()
	response, err := a.executor.ExecuteActivity(ctx, &protos.ActivityRequest{
		Name: task.GetName(), Version: task.GetVersion(), Input: task.GetInput(), TaskId: id, TaskExecutionId: task.GetTaskExecutionId(),
		WorkflowInstance: &protos.WorkflowInstance{InstanceId: string(item.InstanceID)},
	})
	if err != nil {
		a.log.Warnf("%s: %s", item.InstanceID, err)
		_ = a.backend.AbandonActivityWorkItem(context.WithoutCancel(ctx), item)
		return
	}
	item.Result = &HistoryEvent{EventId: -1, Timestamp: timestamppb.Now(), Router: item.NewEvent.GetRouter()}
	if response.FailureDetails != nil {
		item.Result.EventType = &protos.HistoryEvent_TaskFailed{TaskFailed: &protos.TaskFailedEvent{
			TaskScheduledId: id, TaskExecutionId: task.GetTaskExecutionId(), FailureDetails: response.FailureDetails,
		}}
	} else {
		item.Result.EventType = &protos.HistoryEvent_TaskCompleted{TaskCompleted: &protos.TaskCompletedEvent{
			TaskScheduledId: id, TaskExecutionId: task.GetTaskExecutionId(), Result: response.Result,
		}}
	}
	_ = a.backend.CompleteActivityWorkItem(context.WithoutCancel(ctx), item)
}

// TaskHubWorker is the two workers together.
type TaskHubWorker interface {
	Start(context.Context) error
	Shutdown(context.Context) error
}

type worker struct {
	backend Backend
	parts   []TaskWorker
	stop    context.CancelFunc
}

func NewTaskHubWorker(b Backend, workflows TaskWorker, activities TaskWorker, _ Logger) TaskHubWorker {
	return &worker{backend: b, parts: []TaskWorker{workflows, activities}}
}

func (w *worker) Start(ctx context.Context) error {
	if err := w.backend.Start(ctx); err != nil {
		return err
	}
	ctx, w.stop = context.WithCancel(ctx)
	for _, part := range w.parts {
		go part.run(ctx)
	}
	return nil
}

func (w *worker) Shutdown(ctx context.Context) error {
	w.stop()
	return w.backend.Stop(ctx)
}
