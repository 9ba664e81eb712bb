package kafkabus

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/events"
)

// pair is a wire connected to a peer that the test plays.
func pair(t *testing.T) (*wire, net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := newWire(context.Background(), Config{BootstrapServers: "x"}.withDefaults())
	t.Cleanup(w.abort)
	conn, err := w.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	return w, conn, peer
}

func request(key byte) []byte { return []byte{0, 0, 0, 4, 0, key, 0, 9} }

func TestTheWireKnowsWhatLeft(t *testing.T) {
	w, conn, peer := pair(t)
	answer := func() {
		t.Helper()
		if _, err := peer.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
	}
	write := func(key byte) {
		t.Helper()
		if _, err := conn.Write(request(key)); err != nil {
			t.Fatal(err)
		}
	}
	m := w.mark()
	write(3) // metadata
	answer()
	if s := w.since(m); s != (evidence{}) {
		t.Errorf("a metadata request: %+v", s)
	}
	write(apiProduce)
	answer()
	if s := w.since(m); s != (evidence{produced: true}) {
		t.Errorf("an answered produce request: %+v", s)
	}
	write(apiProduce)
	_ = conn.Close()
	_ = conn.Close()
	if s := w.since(m); s != (evidence{produced: true, lost: true}) || w.lost.Load() != 1 {
		t.Errorf("a lost one: %+v", s)
	}
}

func TestAJoinIsWaitedForLonger(t *testing.T) {
	w, conn, peer := pair(t)
	w.joinTimeout = time.Minute
	past := time.Now().Add(-time.Second)
	if _, err := conn.Write(request(apiJoinGroup)); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(past); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Errorf("the join: %v", err)
	}
	if err := conn.SetReadDeadline(past); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the deadline after it does not hold")
	}
}

func TestAnAbortedWireDialsNoMore(t *testing.T) {
	w, conn, _ := pair(t)
	w.abort()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := w.Dial("tcp", "127.0.0.1:1"); err == nil {
		t.Error("it dialled")
	}
	if w.backoff(9, 9) != 0 || !w.aborted() {
		t.Error("it waits between tries")
	}
}

func TestMarshalerNeverWritesWhatIsOurs(t *testing.T) {
	msg := message.NewMessage("", []byte{})
	msg.Metadata = message.Metadata{events.HeaderKey: "", events.HeaderMalformed: "x", "_watermill_message_uuid": "forged", "a": "b"}
	rec, err := marshaler{}.Marshal("topic", msg)
	if err != nil {
		t.Fatal(err)
	}
	if rec.Key != nil || len(rec.Headers) != 1 || string(rec.Headers[0].Key) != "a" {
		t.Errorf("key %v, headers %v", rec.Key, rec.Headers)
	}
}

func TestUnmarshalNeverFails(t *testing.T) {
	for name, rec := range map[string]*sarama.ConsumerMessage{
		"nothing":    {},
		"nil header": {Headers: []*sarama.RecordHeader{nil, {}}},
		"huge":       {Headers: []*sarama.RecordHeader{{Key: make([]byte, 2<<20)}}},
		"binary":     {Key: []byte{0xff, 0}, Headers: []*sarama.RecordHeader{{Key: []byte{0xff}, Value: []byte{0}}}},
	} {
		msg, err := marshaler{}.Unmarshal(rec)
		if err != nil || msg.UUID == "" {
			t.Errorf("%s: %v, %q", name, err, msg.UUID)
		}
		if got := msg.Metadata[events.HeaderMalformed] != ""; got != (name == "huge") {
			t.Errorf("%s: malformed is %v", name, got)
		}
		if msg.Metadata[events.HeaderKey] != string(rec.Key) {
			t.Errorf("%s: key %q", name, msg.Metadata[events.HeaderKey])
		}
	}
	a, _ := marshaler{}.Unmarshal(&sarama.ConsumerMessage{Topic: "t", Partition: 1, Offset: 2})
	b, _ := marshaler{}.Unmarshal(&sarama.ConsumerMessage{Topic: "t", Partition: 1, Offset: 3})
	if a.UUID == b.UUID {
		t.Error("two records have one UUID")
	}
}

func TestFindingsAboutBrokers(t *testing.T) {
	bad := map[string]string{
		"default.replication.factor": "1", "min.insync.replicas": "1", "unclean.leader.election.enable": "true",
		"offsets.topic.replication.factor": "1", "auto.create.topics.enable": "true",
	}
	if f := auditBrokers(3, bad); len(f) != 5 {
		t.Errorf("%q", f)
	}
	good := map[string]string{
		"default.replication.factor": "3", "min.insync.replicas": "2", "unclean.leader.election.enable": "false",
		"offsets.topic.replication.factor": "3", "auto.create.topics.enable": "false",
	}
	if f := auditBrokers(3, good); len(f) != 0 {
		t.Errorf("%q", f)
	}
	if s := some([]string{"a", "b", "c", "d", "e"}); s != "a, b, c and 2 more" {
		t.Error(s)
	}
	for level, want := range map[int16]string{27: "4.1", 25: "4.0", 14: "3.6", 1: ""} {
		if got := release(level); got != want {
			t.Errorf("level %d: %q, want %q", level, got, want)
		}
	}
}
