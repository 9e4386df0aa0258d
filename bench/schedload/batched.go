// Workers of raftsched.v1 (-batched): many triggers and many answers in a message. The messages are read and written by hand, so that
// the generator needs no generated code of ours and costs little beside the server that it measures.
package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

const watchTriggers = "/raftsched.v1.Workers/WatchTriggers"

// rawCodec passes message bytes through.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append((*v.(*[]byte))[:0], data...)
	return nil
}

var errWire = errors.New("malformed message")

// eachField calls with number and body of each field; the body of a varint is its value in `number`.
func eachField(b []byte, use func(field protowire.Number, number uint64, body []byte) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		var number uint64
		var body []byte
		switch kind {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			body, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return errWire
		}
		if err := use(field, number, body); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// triggersOf calls with id and job's name of each trigger of a WatchTriggersResponse.
func triggersOf(message []byte, use func(id uint64, name string)) error {
	return eachField(message, func(field protowire.Number, _ uint64, trigger []byte) error {
		if field != 1 {
			return nil
		}
		var id uint64
		var name string
		err := eachField(trigger, func(field protowire.Number, number uint64, body []byte) error {
			switch field {
			case 1:
				id = number
			case 2: // JobName
				return eachField(body, func(field protowire.Number, _ uint64, text []byte) error {
					if field == 3 {
						name = string(text)
					}
					return nil
				})
			}
			return nil
		})
		if err == nil {
			use(id, name)
		}
		return err
	})
}

func appendBody(b []byte, field protowire.Number, body []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), body)
}

// batchedInitial is the first WatchTriggersRequest: the app's jobs and, with -mixed, the reminders of its actor types.
func batchedInitial(o *options) []byte {
	b := appendBody(nil, 1, []byte(o.namespace))
	b = appendBody(b, 2, []byte(o.app))
	for _, kind := range actorTypes(o) {
		b = appendBody(b, 3, []byte(kind))
	}
	return appendBody(nil, 1, b)
}

// batchedAcks is a WatchTriggersRequest that answers all of these with success.
func batchedAcks(ids []uint64) []byte {
	var acks, ack []byte
	for _, id := range ids {
		ack = protowire.AppendVarint(protowire.AppendTag(ack[:0], 1, protowire.VarintType), id)
		acks = appendBody(acks, 1, ack)
	}
	return appendBody(nil, 2, acks)
}

func watchBatchedOnce(ctx context.Context, o *options, conn *grpc.ClientConn, addr string, rec *recorder, opened func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	both := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := conn.NewStream(ctx, both, watchTriggers, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return
	}
	initial := batchedInitial(o)
	if stream.SendMsg(&initial) != nil {
		return
	}
	opened()

	var mu sync.Mutex
	var ids []uint64
	wake := make(chan struct{}, 1)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-wake:
			}
			mu.Lock()
			batch := ids
			ids = nil
			mu.Unlock()
			for len(batch) > 0 {
				n := min(len(batch), ackIDsMax)
				message := batchedAcks(batch[:n])
				batch = batch[n:]
				if stream.SendMsg(&message) != nil {
					cancel()
					return
				}
			}
		}
	}()

	var message []byte
	var answered []uint64
	for {
		if stream.RecvMsg(&message) != nil {
			return
		}
		at := time.Now()
		answered = answered[:0]
		if triggersOf(message, func(id uint64, name string) {
			answered = append(answered, id)
			if i, ok := jobIndex(name); ok {
				rec.add(trigger{job: i, at: at, src: addr})
			}
		}) != nil {
			return
		}
		mu.Lock()
		ids = append(ids, answered...)
		mu.Unlock()
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

const ackIDsMax = 4_000 // of one message, which has at most 64 KiB
