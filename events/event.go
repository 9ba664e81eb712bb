package events

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Event is a fact that a service announces. A type becomes an event by
// embedding Base and being defined with Define.
//
// The interface is closed: only types that embed Base satisfy it.
type Event interface {
	// Key orders events: those with the same key are handled in the order they
	// were published. Promoted from Base it is the user id; a type overrides it
	// to be ordered by something else. "" means no order is asked for.
	Key() string

	base() Base
}

// Base holds the fields that every event has on the wire. An event type embeds
// it. The bus fills what a publisher leaves empty, except UserID and Metadata.
type Base struct {
	// ID identifies the event: it stays the same through every retry, failover
	// and redelivery. Defaults to a new UUIDv7. Preset it (at most 200 bytes) to
	// publish the same fact twice safely; with an id that is no UUIDv7 preset
	// Timestamp too, or the two are not the same.
	ID string `json:"event_id,omitzero"`
	// Type defaults to the name given to Define, and may be nothing else.
	Type string `json:"event_type,omitzero"`
	// Timestamp is when the fact happened. Defaults to the time in ID when that is
	// a UUIDv7 (which a new one is), else to now. It is written in UTC with six
	// decimals; one read without a zone is UTC.
	Timestamp time.Time `json:"timestamp,omitzero"`
	// TraceID defaults to the trace id of the publishing context's span, as 32
	// hexadecimal digits. On the wire "" is null.
	TraceID string `json:"trace_id,omitzero"`
	// UserID is whom the fact is about, and the default key. On the wire "" is
	// null.
	UserID string `json:"user_id,omitzero"`
	// Metadata is free for the application. On the wire nil is {}. Read, a number
	// is a float64 or, where that would change it (a 64-bit id), a Raw; so in
	// every map[string]any and any of an event.
	Metadata map[string]any `json:"metadata,omitzero"`
	// Version of the type's schema. Defaults to the version given to Define,
	// and may be nothing else when publishing. On the wire 1 is left out.
	Version int `json:"event_version,omitzero"`
}

// Key returns the user id: events about one user are handled in order.
func (b Base) Key() string { return b.UserID }

func (b Base) base() Base      { return b }
func (b *Base) setBase(n Base) { *b = n }

// BaseOf returns the common fields of e.
func BaseOf(e Event) Base { return e.base() }

// NewID returns a new UUIDv7 (RFC 9562): unique, and ordered by the time it
// was made to about a millisecond.
func NewID() string {
	id, _ := newID()
	return id
}

// ids makes UUIDv7s.
var ids struct {
	sync.Mutex
	last   int64         // time of the last one, as it stands in the id
	random *bufio.Reader // crypto/rand, a block at a time: a call of the system for each id would double its cost
}

func init() { ids.random = bufio.NewReaderSize(rand.Reader, 1024) }

func newID() (string, time.Time) {
	now := time.Now()
	// Milliseconds in 48 bits and, in the 12 bits that follow, fractions of 256 ns
	// (RFC 9562, section 6.2, method 3): ids of this process are in order.
	at := now.UnixMilli()<<12 | int64(now.Nanosecond()%1e6)>>8
	var id uuid.UUID
	ids.Lock()
	if at <= ids.last {
		at = ids.last + 1
	}
	ids.last = at
	_, err := io.ReadFull(ids.random, id[8:])
	ids.Unlock()
	if err != nil {
		// crypto/rand does not fail on any system Go 1.24 and later runs on: it
		// ends the program instead.
		panic(err)
	}
	binary.BigEndian.PutUint64(id[:], uint64(at>>12)<<16|uint64(at&0xfff)) //nolint:gosec // positive
	id[6] |= 0x70
	id[8] = id[8]&0x3f | 0x80
	when := timeOfV7(id)
	if d := now.Sub(when); d > time.Second || d < -time.Second {
		when = now // the clock was set back: ids are in order all the same
	}
	return id.String(), when
}

// timeOfID is when the event with this id happened: for a UUIDv7 the time it was
// made, for any other id now.
func timeOfID(id string) time.Time {
	if u, err := uuid.Parse(id); err == nil && len(id) == 36 && u.Version() == 7 {
		return timeOfV7(u)
	}
	return time.Now()
}

// timeOfV7 reads the milliseconds (RFC 9562, section 5.7) and, in the 12 bits
// behind them, fractions of 256 ns, as google/uuid writes them (section 6.2,
// method 3). In another library's id those bits are random: up to 1 ms.
func timeOfV7(u uuid.UUID) time.Time {
	ms := int64(u[0])<<40 | int64(u[1])<<32 | int64(u[2])<<24 | int64(u[3])<<16 | int64(u[4])<<8 | int64(u[5])
	fraction := int64(u[6]&0x0f)<<8 | int64(u[7])
	return time.UnixMilli(ms).Add(time.Duration(fraction << 8))
}

// settable is what a pointer to an event type offers through its Base.
type settable interface {
	Event
	setBase(Base)
}

// Defaulter is implemented by an event type (on its pointer) that fills fields
// of its own before it is published, after Base has been filled. It changes the
// copy that is published, never the publisher's value.
type Defaulter interface {
	SetDefaults()
}

// Validator is implemented by an event type that has rules beyond required
// fields. Validate is called before publishing, never when reading: what
// another service has already said is handled as it is. The error must not
// quote the event's data; it is logged.
type Validator interface {
	Validate() error
}
