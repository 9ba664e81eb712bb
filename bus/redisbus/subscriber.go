package redisbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/relay"
)

const (
	// maxBackoff is the longest pause between attempts to subscribe again.
	maxBackoff = 5 * time.Second
	// claimInterval is how often the stock adapter looks for entries of members
	// that are gone, and claimBatch how many it takes each time.
	claimInterval = time.Second
	claimBatch    = 1000
	// closeTimeout bounds what closing a subscription waits for the server, each
	// of three times.
	closeTimeout = 2 * time.Second
	// never is an interval that does not pass.
	never = 100 * 365 * 24 * time.Hour
	// parking is the member that entries are handed to whose member has left, so
	// that the next one takes them without waiting ClaimAfter.
	parking = "eventbus-released"
	// released is how long ago a released entry seems to have been delivered:
	// more than any member waits.
	released = 48 * time.Hour
)

// subscriber is one driver.Subscriber: a relay over stock subscribers.
type subscriber struct {
	driver.Subscriber
	b        *Backend
	group    string
	instance string

	mu   sync.Mutex
	live map[*stream]struct{}
	left map[string][]string // by topic: consumers whose entries are not yet released
	owed map[string][]string // by topic: entries whose acks the server has not taken
}

// Close implements driver.Subscriber.
func (s *subscriber) Close() error {
	err := s.Subscriber.Close()
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	delete(s.b.subs, s)
	return err
}

// Drain implements driver.Subscriber. Streams that were closed while the server
// was away left acks behind: they are sent here, unless the backend is closed.
func (s *subscriber) Drain(ctx context.Context) error {
	if err := s.Subscriber.Drain(ctx); err != nil {
		return err
	}
	for {
		var errs []error
		for _, topic := range s.owing() {
			_, err := bounded(ctx, func() (struct{}, error) { return struct{}{}, s.settle(ctx, topic) })
			errs = append(errs, err)
		}
		err := errors.Join(errs...)
		if err == nil || errors.Is(err, redis.ErrClosed) {
			return s.b.fail("drain", err)
		}
		t := time.NewTimer(ackRetry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return s.b.fail("drain", fmt.Errorf("%w: %w", context.Cause(ctx), err))
		}
	}
}

// owing returns the topics with acks that the server has not taken.
func (s *subscriber) owing() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var topics []string
	for topic, ids := range s.owed {
		if len(ids) > 0 {
			topics = append(topics, topic)
		}
	}
	return topics
}

// settle does what earlier streams of a topic could not when they were closed:
// it sends their acks, then releases their entries, in order.
func (s *subscriber) settle(ctx context.Context, topic string) error {
	s.mu.Lock()
	left, owed := slices.Clone(s.left[topic]), s.owed[topic]
	delete(s.owed, topic)
	s.mu.Unlock()
	if len(owed) > 0 {
		if err := s.b.admin.XAck(ctx, topic, s.group, owed...).Err(); err != nil {
			s.mu.Lock()
			s.owed[topic] = append(owed, s.owed[topic]...)
			s.mu.Unlock()
			return fmt.Errorf("ack: %w", err)
		}
	}
	for _, consumer := range left {
		if err := s.b.release(ctx, topic, s.group, consumer, false); err != nil {
			return fmt.Errorf("release entries: %w", err)
		}
		s.mu.Lock()
		s.left[topic] = slices.DeleteFunc(s.left[topic], func(c string) bool { return c == consumer })
		s.mu.Unlock()
	}
	return nil
}

// cut closes the connections of all its streams, which ends what waits for them.
func (s *subscriber) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.live {
		_ = st.client.Close()
	}
}

// open is relay.Config.Open.
//
// Each stock subscriber gets a consumer name of its own. So everything that is
// pending for a name is in the hands of the one living under it, or in those of
// nobody once it is gone: entries whose delivery the connection lost included.
func (s *subscriber) open(ctx context.Context, topic string) (message.Subscriber, error) {
	client := s.b.opts.New()
	st := &stream{
		s: s, topic: topic, client: client,
		consumer: s.instance + "-" + watermill.NewShortUUID(),
		gate:     newGate(),
		logger:   watermill.NewSlogLogger(s.b.cfg.Log),
	}
	addHook(client, st.gate)
	_, err := bounded(ctx, func() (struct{}, error) { return struct{}{}, st.prepare(ctx) })
	if err != nil {
		return nil, errors.Join(err, closed(client.Close()))
	}
	st.acks = newAcks(client, topic, s.group)
	if err := st.connect(); err != nil {
		st.acks.end() // it owes nothing
		return nil, errors.Join(err, closed(client.Close()))
	}
	s.mu.Lock()
	s.live[st] = struct{}{}
	s.mu.Unlock()
	return st, nil
}

// stream is one stock subscriber with what keeps it safe around it.
type stream struct {
	s        *subscriber
	topic    string
	consumer string
	client   redis.UniversalClient // its own
	stock    *redisstream.Subscriber
	gate     *gate
	acks     *acks
	logger   watermill.LoggerAdapter

	stopBeat context.CancelFunc
	beating  sync.WaitGroup
}

// prepare does what must be done before reading.
func (st *stream) prepare(ctx context.Context) error {
	b := st.s.b
	kind, err := b.admin.Type(ctx, st.topic).Result()
	if err != nil {
		return err
	}
	switch {
	case kind == "none" && !b.cfg.Provision.Create:
		return errNoStream
	case kind != "none" && kind != "stream":
		return fmt.Errorf("the key holds a %s, not a stream", kind)
	}
	return st.s.settle(ctx, st.topic)
}

// connect makes the stock subscriber.
func (st *stream) connect() (err error) {
	cfg := st.s.b.cfg
	st.stock, err = redisstream.NewSubscriber(redisstream.SubscriberConfig{
		Client:        stockClient{st.client, st.acks, st.gate},
		Unmarshaller:  wire{},
		Consumer:      st.consumer,
		ConsumerGroup: st.s.group,
		// A new group starts at the oldest entry, or a switch of backends skips some.
		OldestId:        "0",
		NackResendSleep: relay.NackResendSleep,
		BlockTime:       cfg.BlockTime,
		// The first read would block for ever, and its goroutine with it.
		DisableIndefiniteInitialBlock: true,
		// Every failure to read ends this subscriber, and the relay opens another:
		// a lost group must be created again; and when an answer is lost, entries
		// may have been delivered into the void, which the next one must take
		// before it reads on.
		ShouldStopOnReadErrors: func(error) bool { return true },
		ClaimInterval:          claimInterval,
		ClaimBatchSize:         claimBatch,
		MaxIdleTime:            cfg.ClaimAfter,
		// What is pending here is being handled here.
		ShouldClaimPendingMessage: func(p redis.XPendingExt) bool { return p.Consumer != st.consumer },
		// The stock adapter removes a member that it just saw without entries, and
		// with it an entry that the member got in between.
		CheckConsumersInterval: never,
	}, quiet{st.logger})
	return err
}

// Subscribe implements message.Subscriber.
func (st *stream) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	ch, err := st.stock.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	beat, stop := context.WithCancel(context.WithoutCancel(ctx))
	st.stopBeat = stop
	st.beating.Go(func() { st.beat(beat) })
	return ch, nil
}

// StopFetching is used by the relay: nothing more is taken from the server.
func (st *stream) StopFetching() { st.gate.close(errStopped) }

// Condition is used by the relay: why there is nothing to read, or why acks do
// not get through.
func (st *stream) Condition() error { return st.gate.condition() }

// Close implements message.Subscriber. What the stock adapter fetched and did
// not get acked is released for others.
func (st *stream) Close() error {
	st.gate.close(errStopped)
	// XACK is tried for as long as the server is away; a connection that is
	// closed ends that.
	cut := time.AfterFunc(closeTimeout, func() { _ = st.client.Close() })
	defer cut.Stop()
	err := st.stock.Close()
	if st.stopBeat != nil {
		st.stopBeat()
	}
	st.beating.Wait()
	// The stock adapter does not wait for its reader, who may just be getting an
	// entry.
	idle := st.gate.wait(closeTimeout)
	st.acks.end()

	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	b, s := st.s.b, st.s
	owed := st.acks.rest(ctx, b.admin)
	// What is released would be handled again, also what was acked.
	done := len(owed) == 0 && b.release(ctx, st.topic, s.group, st.consumer, idle && !st.gate.lostReply()) == nil
	s.mu.Lock()
	if !done {
		s.left[st.topic] = append(s.left[st.topic], st.consumer)
	}
	s.owed[st.topic] = append(s.owed[st.topic], owed...)
	delete(s.live, st)
	s.mu.Unlock()
	return errors.Join(err, closed(st.client.Close()))
}

// beat shows that entries which wait here for a handler, or are being handled,
// are not abandoned: their idle time starts anew, so nobody claims them.
func (st *stream) beat(ctx context.Context) {
	every := st.s.b.cfg.ClaimAfter / 4
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := st.s.b.refresh(ctx, st.topic, st.s.group, st.consumer, "+", every); err != nil && ctx.Err() == nil {
			st.s.b.cfg.Log.Debug("showing a sign of life failed", "backend", name, "topic", st.topic,
				"group", st.s.group, "error", err.Error())
		}
	}
}

// refresh restarts the idle time of consumer's entries up to end ("+" for all)
// that are older than idle.
func (s *server) refresh(ctx context.Context, topic, group, consumer, end string, idle time.Duration) error {
	start := "-"
	for {
		list, err := s.admin.XPendingExt(ctx, &redis.XPendingExtArgs{
			Stream: topic, Group: group, Idle: idle, Start: start, End: end, Count: claimBatch, Consumer: consumer,
		}).Result()
		if err != nil || len(list) == 0 {
			return err
		}
		args := &redis.XClaimArgs{Stream: topic, Group: group, Consumer: consumer, MinIdle: idle}
		for _, p := range list {
			args.Messages = append(args.Messages, p.ID)
		}
		if err := s.admin.XClaimJustID(ctx, args).Err(); err != nil {
			return err
		}
		if len(list) < claimBatch {
			return nil
		}
		start = "(" + list[len(list)-1].ID
	}
}

// release hands the entries of a consumer that is gone to parking, from where
// the next one to claim takes them, and removes the consumer if it can have got
// no more.
func (b *Backend) release(ctx context.Context, topic, group, consumer string, remove bool) error {
	for {
		list, err := b.admin.XPendingExt(ctx, &redis.XPendingExtArgs{
			Stream: topic, Group: group, Start: "-", End: "+", Count: claimBatch, Consumer: consumer,
		}).Result()
		if isNoGroup(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(list) == 0 {
			break
		}
		args := []any{"XCLAIM", topic, group, parking, 0}
		for _, p := range list {
			args = append(args, p.ID)
		}
		args = append(args, "IDLE", released.Milliseconds(), "JUSTID")
		if err := b.admin.Do(ctx, args...).Err(); err != nil {
			return err
		}
	}
	if !remove {
		return nil
	}
	err := b.admin.XGroupDelConsumer(ctx, topic, group, consumer).Err()
	if isNoGroup(err) {
		return nil
	}
	return err
}

// isNoGroup tells that the group, or the whole stream, is not there.
func isNoGroup(err error) bool {
	return err != nil && isReply(err) &&
		(strings.HasPrefix(err.Error(), "NOGROUP") || strings.Contains(err.Error(), "requires the key to exist"))
}

// quiet keeps the stock adapter's errors out of the log, which it writes on each
// try: the relay says once what is wrong and when it is over.
type quiet struct{ watermill.LoggerAdapter }

func (q quiet) Error(msg string, err error, fields watermill.LogFields) {
	q.Debug(msg, fields.Add(watermill.LogFields{"error": err}))
}

func (q quiet) Info(msg string, fields watermill.LogFields) { q.Debug(msg, fields) }

func (q quiet) With(fields watermill.LogFields) watermill.LoggerAdapter {
	return quiet{q.LoggerAdapter.With(fields)}
}
