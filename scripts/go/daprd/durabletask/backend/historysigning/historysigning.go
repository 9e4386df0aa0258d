// Package historysigning is there for the compiler: Dapr calls it only with the feature WorkflowHistorySigning.
package historysigning

import (
	"crypto/sha256"
	"errors"
	"time"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/kit/crypto/spiffe/signer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var errAbsent = errors.New("the signing of histories is not in this build")

type PropagationContext struct{ InstanceID, WorkflowName string }

type SignOptions struct {
	RawEvents            [][]byte
	StartEventIndex      uint64
	PreviousSignatureRaw []byte
	ExistingCerts        []*protos.SigningCertificate
	PropagationContext   *PropagationContext
}

type SignResult struct {
	NewCert      *protos.SigningCertificate
	Signature    *protos.HistorySignature
	RawSignature []byte
}

type ChildAttestationInput struct {
	ParentInstanceId      string
	ParentTaskScheduledId int32
	Input, Output         *wrapperspb.StringValue
	TerminalStatus        protos.TerminalStatus
	FailureDetails        *protos.TaskFailureDetails
}

type ActivityAttestationInput struct {
	ParentInstanceId      string
	ParentTaskScheduledId int32
	ActivityName          string
	Input, Output         *wrapperspb.StringValue
	TerminalStatus        protos.ActivityTerminalStatus
	FailureDetails        *protos.TaskFailureDetails
}

type VerifyChildOptions struct {
	Attestation                    *protos.ChildCompletionAttestation
	SignerCertDER                  []byte
	EventTimestamp                 time.Time
	ExpectedParentInstanceId       string
	ExpectedParentTaskScheduledId  int32
	ClaimedInput, ClaimedOutput    *wrapperspb.StringValue
	ClaimedFailure                 *protos.TaskFailureDetails
	Signer                         *signer.Signer
	ChainOfTrustVerifiedExternally bool
}

type VerifyActivityOptions struct {
	Attestation                    *protos.ActivityCompletionAttestation
	SignerCertDER                  []byte
	EventTimestamp                 time.Time
	ExpectedParentInstanceId       string
	ExpectedParentTaskScheduledId  int32
	ExpectedActivityName           string
	ClaimedInput, ClaimedOutput    *wrapperspb.StringValue
	ClaimedFailure                 *protos.TaskFailureDetails
	Signer                         *signer.Signer
	ChainOfTrustVerifiedExternally bool
}

type VerifyChainOptions struct {
	RawSignatures [][]byte
	Certs         []*protos.SigningCertificate
	AllRawEvents  [][]byte
	Signer        *signer.Signer
}

type VerifyPropagationOptions struct {
	History           *protos.PropagatedHistory
	Signer            *signer.Signer
	ExpectedNamespace string
}

type Verified struct{ VerifiedCerts map[string][]byte }

func CertDigest(der []byte) []byte {
	sum := sha256.Sum256(der)
	return sum[:]
}

func MarshalEvent(event *protos.HistoryEvent) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(event)
}

func Sign(*signer.Signer, SignOptions) (*SignResult, error) { return nil, errAbsent }

func BuildChildAttestation(*signer.Signer, ChildAttestationInput) (*protos.ChildCompletionAttestation, []byte, error) {
	return nil, nil, errAbsent
}

func BuildActivityAttestation(*signer.Signer, ActivityAttestationInput) (*protos.ActivityCompletionAttestation, []byte, error) {
	return nil, nil, errAbsent
}

func BuildSignedChunk(*protos.PropagatedHistoryChunk, [][]byte, [][]byte) error { return errAbsent }

func VerifyChildAttestation(VerifyChildOptions) (*protos.ChildCompletionAttestationPayload, error) {
	return nil, errAbsent
}

func VerifyActivityAttestation(VerifyActivityOptions) (*protos.ActivityCompletionAttestationPayload, error) {
	return nil, errAbsent
}

func VerifyChain(VerifyChainOptions) (*Verified, error) { return nil, errAbsent }

func VerifyPropagatedHistory(VerifyPropagationOptions) (*Verified, error) { return nil, errAbsent }
