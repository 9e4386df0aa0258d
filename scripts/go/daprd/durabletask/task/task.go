// Package task is there for the compiler: Dapr registers its own workflows for MCP servers in it, of which tests have none.
package task

import (
	"context"
	"errors"

	"github.com/dapr/durabletask-go/backend"
)

var errAbsent = errors.New("workflows inside the sidecar are not in this build")

type (
	ActivityContext interface {
		GetInput(any) error
		Context() context.Context
	}
	Activity            func(ActivityContext) (any, error)
	Workflow            func(*WorkflowContext) (any, error)
	CallActivityOption  func()
	ChildWorkflowOption func()
)

type Task interface{ Await(any) error }

type absent struct{}

func (absent) Await(any) error { return errAbsent }

type WorkflowContext struct{ Name string }

func (*WorkflowContext) GetInput(any) error { return errAbsent }

func (*WorkflowContext) CallActivity(any, ...CallActivityOption) Task { return absent{} }

func (*WorkflowContext) CallChildWorkflow(any, ...ChildWorkflowOption) Task { return absent{} }

func WithActivityInput(any) CallActivityOption { return func() {} }

func WithChildWorkflowInput(any) ChildWorkflowOption { return func() {} }

func WithChildWorkflowAppID(string) ChildWorkflowOption { return func() {} }

type TaskRegistry struct{}

func NewTaskRegistry() *TaskRegistry { return &TaskRegistry{} }

func (*TaskRegistry) UpsertVersionedWorkflowN(string, string, bool, Workflow) {}

func (*TaskRegistry) UpsertActivityN(string, Activity) {}

func (*TaskRegistry) RemoveVersionedWorkflow(string) {}

func (*TaskRegistry) RemoveActivity(string) {}

func NewTaskExecutor(*TaskRegistry) backend.Executor { return nil }
