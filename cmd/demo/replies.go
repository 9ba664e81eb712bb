package main

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/aura360/eventbus/events/aura360"
)

// replies matches guardians' answers to questions by request id. It handles the
// group agents-guardian-responses, and keeps the newest answers for those who
// ask later.
type replies struct {
	mu    sync.Mutex
	byID  map[string]*reply
	order []string // oldest first
}

// reply is an answer, or what there is of it. answer may be read once done is
// closed.
type reply struct {
	id     string
	done   chan struct{}
	answer guardianAnswer
	chunks map[int]string
	last   int // sequence of the final chunk, -1 until it is known
}

type guardianAnswer struct {
	RequestID    string               `json:"request_id"`
	GuardianType aura360.GuardianType `json:"guardian_type"`
	Response     string               `json:"response"`
	Confidence   *float64             `json:"confidence_score,omitempty"`
	Sources      []map[string]any     `json:"retrieval_context,omitempty"`
	Chunks       int                  `json:"chunks,omitempty"` // the pieces it came in, if it did
}

const keptReplies = 10_000

func newReplies() *replies { return &replies{byID: map[string]*reply{}} }

// of returns the reply to a request, an open one if there is none yet.
func (r *replies) of(id string) *reply {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ofLocked(id)
}

func (r *replies) ofLocked(id string) *reply {
	if p := r.byID[id]; p != nil {
		return p
	}
	if len(r.order) == keptReplies {
		delete(r.byID, r.order[0])
		r.order = r.order[1:]
	}
	p := &reply{id: id, done: make(chan struct{}), chunks: map[int]string{}, last: -1}
	r.byID[id], r.order = p, append(r.order, id)
	return p
}

// find returns the reply to a request that is known, else nil.
func (r *replies) find(id string) *reply {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byID[id]
}

// Whole handles guardian.response.
func (r *replies) Whole(_ context.Context, e aura360.GuardianResponse) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ofLocked(e.RequestID).finish(guardianAnswer{
		RequestID: e.RequestID, GuardianType: e.GuardianType, Response: e.Response,
		Confidence: &e.ConfidenceScore, Sources: e.RetrievalContext,
	})
	return nil
}

// Chunk handles guardian.response.chunk: the answer is there with its last piece.
func (r *replies) Chunk(_ context.Context, e aura360.GuardianResponseChunk) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.ofLocked(e.RequestID)
	p.chunks[e.Sequence] = e.Chunk
	if e.IsFinal {
		p.last = e.Sequence
	}
	if p.last < 0 || len(p.chunks) <= p.last {
		return nil
	}
	keys := make([]int, 0, len(p.chunks))
	for k := range p.chunks {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var text strings.Builder
	for _, k := range keys {
		text.WriteString(p.chunks[k])
	}
	p.finish(guardianAnswer{
		RequestID: e.RequestID, GuardianType: e.GuardianType, Response: text.String(), Chunks: len(keys),
	})
	return nil
}

// finish makes the answer known, once. The caller holds the lock.
func (p *reply) finish(answer guardianAnswer) {
	select {
	case <-p.done:
		return // a second answer to the same question: the first one counts
	default:
	}
	p.answer = answer
	close(p.done)
}
