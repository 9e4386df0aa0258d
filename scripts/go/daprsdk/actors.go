package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dapr/go-sdk/actor"
	"github.com/dapr/go-sdk/actor/runtime"
	"github.com/dapr/go-sdk/client"
	daprd "github.com/dapr/go-sdk/service/http"
)

const (
	clocks = "Clock"
	many   = 20
)

// reminded has what each actor and reminder was told, as "actor/reminder".
var reminded = &calls{made: map[string][]call{}}

// Clock is exported, as the SDK asks for it.
type Clock struct {
	actor.ServerImplBaseCtx
}

func (*Clock) Type() string { return clocks }

func (c *Clock) ReminderCall(name string, data []byte, _ string, _ string) {
	reminded.note(c.ID()+"/"+name, data)
}

func actorsOverHTTP(ctx context.Context, port string) {
	service := daprd.NewService("127.0.0.1:" + port)
	service.RegisterActorImplFactoryContext(func() actor.ServerContext { return &Clock{} })
	go func() { ok(service.Start()) }()
	reminders(ctx, connect(ctx))
}

func actorsOverStream(ctx context.Context, _ string) {
	dapr := connect(ctx)
	hosted := runtime.GetActorRuntimeInstanceContext()
	hosted.RegisterActorFactory(func() actor.ServerContext { return &Clock{} })
	stop, err := dapr.(*client.GRPCClient).SubscribeActorEvents(ctx, hosted, client.ActorEventSubscriptionOptions{})
	ok(err)
	reminders(ctx, dapr)
	ok(stop())
}

func remind(ctx context.Context, dapr client.Client, id string, name string, due string, period string) error {
	return dapr.RegisterActorReminder(ctx, &client.RegisterActorReminderRequest{
		ActorType: clocks, ActorID: id, Name: name, DueTime: due, Period: period, Data: []byte(`"` + name + `"`),
	})
}

func forget(ctx context.Context, dapr client.Client, id string, name string) {
	ok(dapr.UnregisterActorReminder(ctx, &client.UnregisterActorReminderRequest{ActorType: clocks, ActorID: id, Name: name}))
}

func reminders(ctx context.Context, dapr client.Client) {
	// the first may come before the sidecar knows the type
	until(func() bool { return remind(ctx, dapr, "one", "once", "1s", "") == nil }, "a reminder is taken")
	ok(remind(ctx, dapr, "one", "tick", "1s", "1s"))
	until(func() bool { return reminded.count("one/once") > 0 && reminded.count("one/tick") >= 3 }, "reminders")
	check(reminded.of("one/tick")[0].data == `"tick"`, "data: %q", reminded.of("one/tick")[0].data)
	forget(ctx, dapr, "one", "tick")
	time.Sleep(time.Second) // for one that was on its way
	count := reminded.count("one/tick")
	time.Sleep(settle)
	check(reminded.count("one/tick") == count, "reminded after the end")
	check(reminded.count("one/once") == 1, "%d reminders of once", reminded.count("one/once"))
	fmt.Println("reminders")
	manyReminders(ctx, dapr)
}

func manyReminders(ctx context.Context, dapr client.Client) {
	for number := range many {
		ok(remind(ctx, dapr, fmt.Sprintf("many-%d", number), "all", "2s", "1s"))
	}
	fmt.Println("fault") // whoever started this may kill a scheduler now
	time.Sleep(settle)
	before := [many]int{}
	for number := range many {
		before[number] = reminded.count(fmt.Sprintf("many-%d/all", number))
	}
	for number := range many {
		name := fmt.Sprintf("many-%d/all", number)
		until(func() bool { return reminded.count(name) >= before[number]+3 }, name)
	}
	for number := range many {
		forget(ctx, dapr, fmt.Sprintf("many-%d", number), "all")
	}
	fmt.Println("many")
}
