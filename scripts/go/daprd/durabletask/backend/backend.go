// Package backend is what Dapr 1.18 uses of durabletask's package of this name.
package backend

import (
	"context"
	"strconv"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
)

type (
	HistoryEvent                  = protos.HistoryEvent
	WorkflowMetadata              = protos.WorkflowMetadata
	WorkflowRuntimeState          = protos.WorkflowRuntimeState
	WorkflowRuntimeStateMessage   = protos.WorkflowRuntimeStateMessage
	CreateWorkflowInstanceRequest = protos.CreateWorkflowInstanceRequest
	RerunWorkflowFromEventRequest = protos.RerunWorkflowFromEventRequest
	BackendWorkflowStateMetadata  = protos.BackendWorkflowStateMetadata
	DurableTimer                  = protos.DurableTimer
	SigningCertificate            = protos.SigningCertificate
	ExternalSigningCertificate    = protos.ExternalSigningCertificate
	HistorySignature              = protos.HistorySignature
	ChildCompletionAttestation    = protos.ChildCompletionAttestation
	ActivityCompletionAttestation = protos.ActivityCompletionAttestation
)

type WorkflowWorkItem struct {
	InstanceID      api.InstanceID
	NewEvents       []*HistoryEvent
	RetryCount      int32
	State           *WorkflowRuntimeState
	Properties      map[string]any
	IncomingHistory *protos.PropagatedHistory
	OutgoingHistory map[int32]*protos.PropagatedHistory
}

type ActivityWorkItem struct {
	SequenceNumber  int64
	InstanceID      api.InstanceID
	NewEvent        *HistoryEvent
	Result          *HistoryEvent
	Properties      map[string]any
	IncomingHistory *protos.PropagatedHistory
}

// Backend is what Dapr's workflow actors do for the engine.
type Backend interface {
	Start(context.Context) error
	Stop(context.Context) error
	CreateWorkflowInstance(context.Context, *HistoryEvent) error
	AddNewWorkflowEvent(context.Context, api.InstanceID, *HistoryEvent) error
	NextWorkflowWorkItem(context.Context) (*WorkflowWorkItem, error)
	CompleteWorkflowWorkItem(context.Context, *WorkflowWorkItem) error
	AbandonWorkflowWorkItem(context.Context, *WorkflowWorkItem) error
	NextActivityWorkItem(context.Context) (*ActivityWorkItem, error)
	CompleteActivityWorkItem(context.Context, *ActivityWorkItem) error
	AbandonActivityWorkItem(context.Context, *ActivityWorkItem) error
	GetWorkflowMetadata(context.Context, api.InstanceID) (*WorkflowMetadata, error)
	WatchWorkflowRuntimeStatus(context.Context, api.InstanceID, func(*WorkflowMetadata) bool) error
	PurgeWorkflowState(context.Context, api.InstanceID, *protos.TaskRouter, bool) (int, error)
	CompleteActivityTask(context.Context, *protos.ActivityResponse) error
	CancelActivityTask(context.Context, api.InstanceID, int32) error
	CompleteWorkflowTask(context.Context, *protos.WorkflowResponse) error
	CancelWorkflowTask(context.Context, api.InstanceID) error
	WaitForActivityCompletion(*protos.ActivityRequest) func(context.Context) (*protos.ActivityResponse, error)
	WaitForWorkflowTaskCompletion(*protos.WorkflowRequest) func(context.Context) (*protos.WorkflowResponse, error)
	ListInstanceIDs(context.Context, *protos.ListInstanceIDsRequest) (*protos.ListInstanceIDsResponse, error)
	GetInstanceHistory(context.Context, *protos.GetInstanceHistoryRequest) (*protos.GetInstanceHistoryResponse, error)
}

// Logger is as much of Dapr's as the engine needs.
type Logger interface {
	Warnf(format string, args ...any)
}

func GetActivityExecutionKey(id string, task int32) string { return id + "/" + strconv.Itoa(int(task)) }
