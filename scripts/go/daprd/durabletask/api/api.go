// Package api is what Dapr 1.18 uses of durabletask's package of this name.
package api

import (
	"errors"
	"time"

	"github.com/dapr/durabletask-go/api/protos"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var (
	ErrInstanceNotFound  = errors.New("no such instance exists")
	ErrNotCompleted      = errors.New("the workflow has not completed yet")
	ErrStalled           = errors.New("the workflow is stalled")
	ErrTaskCancelled     = errors.New("the task was cancelled")
	errUnknownInstanceID = errors.New("nobody waits for this workflow task")
	errUnknownTaskID     = errors.New("nobody waits for this activity")
)

type InstanceID string

func (id InstanceID) String() string { return string(id) }

type OrchestrationStatus = protos.OrchestrationStatus

const (
	RUNTIME_STATUS_COMPLETED  = protos.OrchestrationStatus_ORCHESTRATION_STATUS_COMPLETED
	RUNTIME_STATUS_TERMINATED = protos.OrchestrationStatus_ORCHESTRATION_STATUS_TERMINATED
)

func WorkflowMetadataIsComplete(m *protos.WorkflowMetadata) bool {
	return StatusIsComplete(m.GetRuntimeStatus())
}

func StatusIsComplete(status OrchestrationStatus) bool {
	switch status {
	case protos.OrchestrationStatus_ORCHESTRATION_STATUS_COMPLETED,
		protos.OrchestrationStatus_ORCHESTRATION_STATUS_FAILED,
		protos.OrchestrationStatus_ORCHESTRATION_STATUS_TERMINATED,
		protos.OrchestrationStatus_ORCHESTRATION_STATUS_CANCELED:
		return true
	}
	return false
}

func UnknownInstanceID() error { return errUnknownInstanceID }

func UnknownTaskID() error { return errUnknownTaskID }

func IsUnknownInstanceIDError(err error) bool { return errors.Is(err, errUnknownInstanceID) }

func IsUnknownTaskIDError(err error) bool { return errors.Is(err, errUnknownTaskID) }

type (
	NewWorkflowOptions func(*protos.CreateInstanceRequest)
	TerminateOptions   func(*protos.TerminateRequest)
	PurgeOptions       func(*protos.PurgeInstancesRequest)
	RaiseEventOptions  func(*protos.RaiseEventRequest)
)

func WithInstanceID(id InstanceID) NewWorkflowOptions {
	return func(r *protos.CreateInstanceRequest) { r.InstanceId = string(id) }
}

func WithRawInput(input *wrapperspb.StringValue) NewWorkflowOptions {
	return func(r *protos.CreateInstanceRequest) { r.Input = input }
}

func WithStartTime(at time.Time) NewWorkflowOptions {
	return func(r *protos.CreateInstanceRequest) { r.ScheduledStartTimestamp = timestamppb.New(at) }
}

func WithRecursiveTerminate(recursive bool) TerminateOptions {
	return func(r *protos.TerminateRequest) { r.Recursive = recursive }
}

func WithRecursivePurge(recursive bool) PurgeOptions {
	return func(r *protos.PurgeInstancesRequest) { r.Recursive = recursive }
}

func WithRawEventData(data *wrapperspb.StringValue) RaiseEventOptions {
	return func(r *protos.RaiseEventRequest) { r.Input = data }
}
