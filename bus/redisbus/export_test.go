package redisbus

import "github.com/ThreeDotsLabs/watermill/message"

// Unmarshal reads an entry's fields.
func Unmarshal(values map[string]any) (*message.Message, error) { return wire{}.Unmarshal(values) }

// Findings of an audit, for tests.
const (
	FindNoAOF      = findNoAOF
	FindNotAlways  = findNotAlways
	FindEvicts     = findEvicts
	FindNoConfig   = findNoConfig
	FindNotTrimmed = findNotTrimmed
	FindReplicas   = findReplicas
)
