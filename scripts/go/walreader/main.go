// Reads a log directory and a snapshot directory with etcd's own packages and prints what it found as JSON.
//
//	walreader <wal directory> <snap directory>
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
)

type entry struct {
	Term, Index uint64
	Type        int32
	Data        string
}

type result struct {
	Metadata             string
	Term, Vote, Commit   uint64
	Entries              []entry
	SnapIndex, SnapTerm  uint64
	Voters               []uint64
	Verified             bool
	ValidSnapshotEntries int
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	lg := zap.NewNop()
	out := result{}
	start := &walpb.Snapshot{}
	if newest, err := snap.New(lg, os.Args[2]).Load(); err == nil {
		index, term := newest.Metadata.GetIndex(), newest.Metadata.GetTerm()
		out.SnapIndex, out.SnapTerm = index, term
		out.Voters = newest.Metadata.ConfState.Voters
		start = &walpb.Snapshot{Index: &index, Term: &term}
	} else if err != snap.ErrNoSnapshot {
		must(err)
	}
	marks, err := wal.ValidSnapshotEntries(lg, os.Args[1])
	must(err)
	out.ValidSnapshotEntries = len(marks)
	_, err = wal.Verify(lg, os.Args[1], start)
	must(err)
	out.Verified = true
	log, err := wal.OpenForRead(lg, os.Args[1], start)
	must(err)
	metadata, state, entries, err := log.ReadAll()
	must(err)
	out.Metadata = base64.StdEncoding.EncodeToString(metadata)
	out.Term, out.Vote, out.Commit = state.GetTerm(), state.GetVote(), state.GetCommit()
	for _, e := range entries {
		out.Entries = append(out.Entries, entry{e.GetTerm(), e.GetIndex(), int32(e.GetType()), base64.StdEncoding.EncodeToString(e.Data)})
	}
	must(json.NewEncoder(os.Stdout).Encode(out))
}
