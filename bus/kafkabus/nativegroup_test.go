//go:build unix

package kafkabus_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/kafkabus"
	"github.com/aura360/eventbus/internal/brokertest"
)

// onePartition makes a topic in which all keys are together.
func onePartition(t testing.TB, b driver.Provisioner, prefix string) string {
	t.Helper()
	topic := brokertest.Name(t, prefix)
	if err := b.EnsureTopic(testContext(t), driver.TopicSpec{Name: topic, Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	return topic
}

// What is acked beyond a message that is not is not handled again by the next
// owner, and counts as settled.
func TestNativeAcksBeyondAGapCount(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		b := openNative(t, config(k.Addr))
		topic, group := onePartition(t, b, "gap"), brokertest.Name(t, "g")
		var msgs []*message.Message
		for i := range 500 {
			msgs = append(msgs, msg(fmt.Sprint("key-", i), fmt.Sprint(i)))
		}
		publish(t, b, topic, msgs...)
		s := subscriber(t, b, group)
		ch := subscribe(t, s, topic)
		held := map[string]bool{}
		for i := range 500 {
			m := receive(t, ch)
			if i%100 == 3 {
				held[string(m.Payload)] = true
				continue
			}
			m.Ack()
		}
		eventually(t, "the lag is what is held", func() bool {
			lag, known, err := b.Lag(testContext(t), topic, group)
			return err == nil && known && lag == 5
		})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		publish(t, b, topic, msg("fence", "fence"))
		next := subscribe(t, subscriber(t, b, group), topic)
		for range 6 {
			m := receive(t, next)
			if p := string(m.Payload); p != "fence" && !held[p] {
				t.Errorf("%s was acked and comes again", p)
			}
			m.Ack()
		}
	})
}

// A subscriber is one member of its group, however many topics it reads.
func TestNativeSubscriberIsOneMember(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		b := openNative(t, config(k.Addr))
		group := brokertest.Name(t, "g")
		s := subscriber(t, b, group)
		for i := range 5 {
			topic := brokertest.Name(t, "topic")
			publish(t, b, topic, msg("k", topic))
			if got := take(t, subscribe(t, s, topic), 1); got[0] != topic {
				t.Errorf("topic %d: %q", i, got)
			}
		}
		for topic, st := range s.State() {
			if !st.Connected {
				t.Errorf("%s: %+v", topic, st)
			}
		}
		groups, err := kadm.NewClient(plain(t, k.Addr)).DescribeGroups(testContext(t), group)
		if err != nil || len(groups[group].Members) != 1 {
			t.Errorf("%d members: %v", len(groups[group].Members), err)
		}
	})
}

// A subscription whose topic never comes ends with its context, and leaves the
// others alone.
func TestNativeSubscriptionEndsAlone(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		cfg := config(k.Addr)
		cfg.Provision.Create = false
		b := openNative(t, cfg)
		topic, other := onePartition(t, b, "stays"), onePartition(t, b, "ends")
		s := subscriber(t, b, brokertest.Name(t, "g"))
		stays := subscribe(t, s, topic)
		for _, ending := range []string{brokertest.Name(t, "missing"), other, other} {
			ctx, cancel := context.WithCancel(testContext(t))
			ch, err := s.Subscribe(ctx, ending)
			if err != nil {
				t.Fatal(err)
			}
			if ending == other {
				publish(t, b, other, msg("k", "x"))
				take(t, ch, 1)
			}
			cancel()
			if m, open := <-ch; open {
				t.Errorf("received %q", m.Payload)
			}
			publish(t, b, topic, msg("k", "goes on"))
			take(t, stays, 1)
		}
	})
}

// A topic whose consumer is busy does not hold up the others of the subscriber.
func TestNativeFullTopicHoldsUpNoOther(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		b := openNative(t, config(k.Addr))
		busy, other := onePartition(t, b, "busy"), onePartition(t, b, "other")
		for range 10 {
			var msgs []*message.Message
			for range 1000 {
				msgs = append(msgs, msg("same", "x"))
			}
			publish(t, b, busy, msgs...)
		}
		s := subscriber(t, b, brokertest.Name(t, "g"))
		chBusy, chOther := subscribe(t, s, busy), subscribe(t, s, other)
		held := receive(t, chBusy)
		for i := range 20 {
			publish(t, b, other, msg("k", fmt.Sprint(i)))
			if got := take(t, chOther, 1); got[0] != fmt.Sprint(i) {
				t.Errorf("got %q", got)
			}
		}
		held.Ack()
		take(t, chBusy, 9999)
	})
}

// While a partition moves, what is in hand is waited for, other partitions go on,
// and nothing comes twice.
func TestNativeRebalanceWaitsForWhatIsInHand(t *testing.T) {
	for _, strategy := range []string{"cooperative-sticky", "range"} {
		t.Run(strategy, func(t *testing.T) {
			each(t, func(t *testing.T, k brokertest.Kafka) {
				cfg := config(k.Addr)
				cfg.GroupStrategy, cfg.HeartbeatInterval = strategy, 100*time.Millisecond
				b := openNative(t, cfg)
				topic, group := brokertest.Name(t, "moves"), brokertest.Name(t, "g")
				if err := b.EnsureTopic(testContext(t), driver.TopicSpec{Name: topic, Partitions: 4}); err != nil {
					t.Fatal(err)
				}
				var msgs []*message.Message
				for i := range 200 {
					msgs = append(msgs, msg(fmt.Sprint("key-", i), fmt.Sprint(i)))
				}
				publish(t, b, topic, msgs...)
				var mu sync.Mutex
				seen := map[string]int{}
				note := func(m *message.Message) {
					mu.Lock()
					defer mu.Unlock()
					seen[string(m.Payload)]++
				}
				count := func() int {
					mu.Lock()
					defer mu.Unlock()
					return len(seen)
				}
				one := subscriber(t, b, group)
				ch := subscribe(t, one, topic)
				var held []*message.Message
				for range 200 {
					m := receive(t, ch)
					note(m)
					held = append(held, m)
				}
				// The second member waits until the first has given its half up.
				two := subscriber(t, b, group)
				ch2 := subscribe(t, two, topic)
				read := func(ch <-chan *message.Message) {
					for m := range ch {
						note(m)
						m.Ack()
					}
				}
				go read(ch)
				go read(ch2)
				admin := kadm.NewClient(plain(t, k.Addr))
				eventually(t, "the group knows of the second", func() bool {
					groups, err := admin.DescribeGroups(testContext(t), group)
					return err == nil && (len(groups[group].Members) == 2 || groups[group].State == "PreparingRebalance")
				})
				for _, m := range held {
					if m.Context().Err() != nil {
						t.Error("the context of a message in hand has ended")
					}
					m.Ack()
				}
				for i := range 200 {
					publish(t, b, topic, msg(fmt.Sprint("key-", i), fmt.Sprint("more ", i)))
				}
				eventually(t, "all handled", func() bool { return count() == 400 })
				eventually(t, "both are connected", func() bool { return one.State()[topic].Connected && two.State()[topic].Connected })
				mu.Lock()
				defer mu.Unlock()
				for p, n := range seen {
					if n != 1 {
						t.Errorf("%s came %d times", p, n)
					}
				}
			})
		})
	}
}

func TestNativeTopicMadeAnewIsReadFromTheBeginning(t *testing.T) {
	each(t, func(t *testing.T, k brokertest.Kafka) {
		b := openNative(t, config(k.Addr))
		topic := onePartition(t, b, "anew")
		s := subscriber(t, b, brokertest.Name(t, "g"))
		ch := subscribe(t, s, topic)
		publish(t, b, topic, numbered("before", 20)...)
		take(t, ch, 20)
		admin := kadm.NewClient(plain(t, k.Addr))
		if _, err := admin.DeleteTopics(testContext(t), topic); err != nil {
			t.Fatal(err)
		}
		eventually(t, "published to the new one", func() bool {
			return b.Publish(testContext(t), topic, msg("k", "after 0")) == nil
		})
		for i := range 10 {
			publish(t, b, topic, msg("k", fmt.Sprint("after ", i+1)))
		}
		seen := map[string]bool{}
		for len(seen) < 11 {
			m := receive(t, ch)
			if p := string(m.Payload); strings.HasPrefix(p, "after") {
				seen[p] = true
			} else {
				t.Errorf("received %q", p)
			}
			m.Ack()
		}
		if st := s.State()[topic]; st.Resubscribed == 0 {
			t.Errorf("state %+v", st)
		}
		eventually(t, "connected", func() bool { return s.State()[topic].Connected })
	})
}

func TestNativeAddedPartitionsAreRead(t *testing.T) {
	k := brokertest.FakeKafka(t)
	b := openNative(t, config(k.Addr))
	topic := onePartition(t, b, "added")
	s := subscriber(t, b, "g")
	ch := subscribe(t, s, topic)
	publish(t, b, topic, msg("k", "one"))
	take(t, ch, 1)
	if _, err := kadm.NewClient(plain(t, k.Addr)).UpdatePartitions(testContext(t), 6, topic); err != nil {
		t.Fatal(err)
	}
	b.RefreshMetadata()
	// Published before the group knows: read from the beginning all the same.
	eventually(t, "several partitions are used", func() bool {
		publish(t, b, topic, msg("", "x"))
		ends, err := kadm.NewClient(plain(t, k.Addr)).ListEndOffsets(testContext(t), topic)
		used := 0
		ends.Each(func(o kadm.ListedOffset) {
			if o.Offset > 0 {
				used++
			}
		})
		return err == nil && used >= 4
	})
	kafkabus.RefreshMembers(s)
	ends, err := kadm.NewClient(plain(t, k.Addr)).ListEndOffsets(testContext(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	total := -1 // the first was taken
	ends.Each(func(o kadm.ListedOffset) { total += int(o.Offset) })
	take(t, ch, total)
}

// Leader and coordinator move to another broker and back.
func TestNativeLeaderAndCoordinatorMove(t *testing.T) {
	c := brokertest.StartKafka(t, brokertest.KafkaOptions{Nodes: 3})
	b := openNative(t, config(c.Addr))
	topic := onePartition(t, b, "moved")
	group := brokertest.Name(t, "g")
	s := subscriber(t, b, group)
	ch := subscribe(t, s, topic)
	publish(t, b, topic, msg("k", "before"))
	take(t, ch, 1)
	admin := kadm.NewClient(plain(t, c.Addr))
	topics, err := admin.ListTopics(testContext(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := admin.DescribeGroups(testContext(t), group)
	if err != nil {
		t.Fatal(err)
	}
	for what, node := range map[string]int32{"leader": topics[topic].Partitions[0].Leader, "coordinator": groups[group].Coordinator.NodeID} {
		p := c.Nodes[node-1]
		p.Kill()
		for i := range 5 {
			eventually(t, "published without the "+what, func() bool {
				return b.Publish(testContext(t), topic, msg("k", fmt.Sprint(what, i))) == nil
			})
		}
		seen := map[string]bool{}
		for len(seen) < 5 {
			m := receive(t, ch)
			seen[string(m.Payload)] = true
			m.Ack()
		}
		p.Restart()
	}
	eventually(t, "connected", func() bool { return s.State()[topic].Connected })
}

// A connection on which nothing comes any more is noticed, told and replaced.
func TestNativeHalfOpenConnection(t *testing.T) {
	c := brokertest.StartKafka(t, brokertest.KafkaOptions{Proxied: true})
	cfg := config(c.Addr)
	cfg.SocketTimeout, cfg.HeartbeatInterval = time.Second, 200*time.Millisecond
	b := openNative(t, cfg)
	topic := onePartition(t, b, "hole")
	s := subscriber(t, b, "g")
	ch := subscribe(t, s, topic)
	publish(t, b, topic, msg("k", "before"))
	take(t, ch, 1)
	eventually(t, "committed", func() bool {
		lag, known, err := b.Lag(testContext(t), topic, "g")
		return err == nil && known && lag == 0
	})
	c.Proxies[0].BlackHole()
	eventually(t, "State tells", func() bool { return !s.State()[topic].Connected })
	c.Proxies[0].Restore()
	eventually(t, "published again", func() bool { return b.Publish(testContext(t), topic, msg("k", "after")) == nil })
	if got := take(t, ch, 1); got[0] != "after" {
		t.Errorf("got %q", got)
	}
	eventually(t, "State tells", func() bool { return s.State()[topic].Connected })
	if st := s.State()[topic]; st.Resubscribed == 0 || st.LastError == "" {
		t.Errorf("state %+v", st)
	}
}

// A login that is refused is tried for ever, and works when it is accepted again.
func TestNativeRefusedLoginIsTriedAgain(t *testing.T) {
	k := brokertest.KafkaSecure(t)
	tokens := k.TokenEndpoint(t)
	target, err := url.Parse(tokens.URL)
	if err != nil {
		t.Fatal(err)
	}
	target.Path = ""
	proxy := httputil.NewSingleHostReverseProxy(target)
	var open atomic.Bool
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !open.Load() {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer endpoint.Close()
	b := openNative(t, kafkabus.Config{
		BootstrapServers: k.SASLPlaintext, SecurityProtocol: "SASL_PLAINTEXT", SASLMechanism: "OAUTHBEARER",
		SASLOAuthBearerTokenEndpointURL: endpoint.URL + "/token", SASLOAuthBearerClientID: tokens.ClientID,
		SASLOAuthBearerClientSecret: tokens.ClientSecret, Provision: driver.Provision{Create: true},
	})
	topic := brokertest.Name(t, "refused")
	s := subscriber(t, b, brokertest.Name(t, "g"))
	ch := subscribe(t, s, topic)
	eventually(t, "State tells", func() bool { return strings.Contains(s.State()[topic].LastError, "401") })
	open.Store(true)
	eventually(t, "published", func() bool { return b.Publish(testContext(t), topic, msg("k", "in")) == nil })
	if got := take(t, ch, 1); got[0] != "in" {
		t.Errorf("got %q", got)
	}
	eventually(t, "connected", func() bool { return s.State()[topic].Connected })
}

// Commits that fail are made again, also where the broker takes no metadata as
// long as ours.
func TestNativeFailedCommitsAreMadeAgain(t *testing.T) {
	k := brokertest.FakeKafka(t)
	b := openNative(t, config(k.Addr))
	topic := onePartition(t, b, "commits")
	var fails atomic.Int64
	k.Fake.ControlKey(int16(kmsg.OffsetCommit), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.Fake.KeepControl()
		req := kreq.(*kmsg.OffsetCommitRequest)
		var code int16
		switch n := fails.Add(1); {
		case n == 1:
			code = kerr.CoordinatorLoadInProgress.Code
		case req.Topics[0].Partitions[0].Metadata != nil && *req.Topics[0].Partitions[0].Metadata != "":
			code = kerr.OffsetMetadataTooLarge.Code
		default:
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, t := range req.Topics {
			rt := kmsg.NewOffsetCommitResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	publish(t, b, topic, numbered("x", 10)...)
	s := subscriber(t, b, "g")
	ch := subscribe(t, s, topic)
	first := receive(t, ch)
	second := receive(t, ch) // another key
	third := receive(t, ch)
	third.Ack()
	second.Ack()
	eventually(t, "the metadata was refused", func() bool { return fails.Load() >= 3 })
	first.Ack()
	eventually(t, "committed", func() bool {
		lag, known, err := b.Lag(testContext(t), topic, "g")
		return err == nil && known && lag == 7
	})
}
