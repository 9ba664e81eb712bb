package driver

import (
	"context"
	"time"
)

// TopicSpec says how a topic is created.
type TopicSpec struct {
	Name string
	// Partitions, 1 to 1000. 0 leaves the backend's configured default (3).
	Partitions int
	// Retention is how long messages are kept. 0 leaves the backend's configured
	// default (7 days). A backend that cannot forget by age ignores it: native
	// Redis keeps what some group has not consumed, and trims the rest.
	Retention time.Duration
	// MaxMessageBytes raises the largest message where the broker lets it.
	MaxMessageBytes int
}

// Provisioner is a Backend that can create topics.
type Provisioner interface {
	// EnsureTopic creates the topic if it is missing, also where creating
	// topics on first use is turned off, and does not change one that exists. It
	// is one or two round trips, bounded by ctx.
	EnsureTopic(ctx context.Context, spec TopicSpec) error
}

// Provision is how a backend treats a topic that is missing when it is first
// published to or subscribed to.
type Provision struct {
	// Create missing topics.
	Create bool
	// Partitions of a created topic, 1 to 1000. Defaults to 3.
	Partitions int
	// Retention of a created topic. Defaults to 7 days.
	Retention time.Duration
}

// Auditor is a Backend that can look at its server's settings.
type Auditor interface {
	// Audit reads the server's settings, one or two round trips bounded by ctx.
	Audit(ctx context.Context) (Audit, error)
}

// Audit says what a server's settings mean for the promise that accepted means kept.
type Audit struct {
	// Durable: a confirmed message survives a kill -9 of the server.
	Durable bool `json:"durable"`
	// Version of the server, "" when it does not tell.
	Version string `json:"version,omitempty"`
	// Findings are what an operator should know, one sentence each, most
	// important first.
	Findings []string `json:"findings,omitempty"`
}

// Inspector is a Backend that can show what is on the broker.
type Inspector interface {
	// Lag returns how many messages of topic group has not settled. known is
	// false when the group has never read the topic.
	Lag(ctx context.Context, topic, group string) (lag int64, known bool, err error)
}

// StorageReporter is a Backend that frees storage of what every group has
// consumed, and knows which groups stand in the way.
type StorageReporter interface {
	// HeldBack returns the groups that keep more than they should, by topic and
	// group, as they were some seconds ago. It never blocks.
	HeldBack() []HeldBack
}

// HeldBack is a group for which messages are kept that nobody else needs.
type HeldBack struct {
	Topic    string    `json:"topic"`
	Group    string    `json:"group"`
	Messages int64     `json:"messages"` // that it has not settled
	Since    time.Time `json:"since"`    // when the oldest of them was published
	// Abandoned: no member of the group has shown a sign of life for minutes.
	// Otherwise it is alive and far behind others.
	Abandoned bool `json:"abandoned"`
}
