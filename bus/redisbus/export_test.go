package redisbus

import "github.com/ThreeDotsLabs/watermill/message"

// Unmarshal reads an entry's fields.
func Unmarshal(values map[string]any) (*message.Message, error) { return wire{}.Unmarshal(values) }

// Marshal writes an entry's fields.
func Marshal(msg *message.Message) (map[string]any, error) { return wire{}.Marshal("topic", msg) }

// Findings of an audit, for tests.
const (
	FindNoAOF      = findNoAOF
	FindNotAlways  = findNotAlways
	FindEvicts     = findEvicts
	FindNoConfig   = findNoConfig
	FindNotTrimmed = findNotTrimmed
	FindReplicas   = findReplicas
)
