package redisbus

import (
	"context"
	"errors"
	"testing"
)

// The lane used last is the one whose buffers and socket are still in the
// processor's cache.
func TestTheLaneUsedLastIsUsedNext(t *testing.T) {
	b, err := Open(Config{URL: "redis://127.0.0.1:1"}) // no I/O until something is sent
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(t.Context())
	take := func() *lane {
		t.Helper()
		l, err := b.lanes.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first, second := take(), take()
	b.lanes.put(second)
	b.lanes.put(first)
	if got := take(); got != first {
		t.Error("got another lane than the one put back last")
	}
	if got := take(); got != second {
		t.Error("got another lane than the one that was free")
	}

	lanes := []*lane{first, second}
	for len(lanes) < cap(b.lanes.slots) {
		lanes = append(lanes, take())
	}
	why := errors.New("gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if l, err := b.lanes.take(ctx); l != nil || !errors.Is(err, why) {
		t.Errorf("with all lanes in use take returned %v, %v, want the context's cause", l, err)
	}
	for _, l := range lanes {
		b.lanes.put(l)
	}
	if got := take(); got != lanes[len(lanes)-1] {
		t.Error("after waiting in vain the lanes do not come back")
	}
	b.lanes.put(lanes[len(lanes)-1])
	if made := len(b.lanes.all); made != cap(b.lanes.slots) {
		t.Errorf("%d lanes made, want %d", made, cap(b.lanes.slots))
	}
}
