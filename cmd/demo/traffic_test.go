package main

import (
	"bufio"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
)

func plan(seed uint64, n int) []planned {
	g := newGenerator(seed, 100, 50)
	out := make([]planned, n)
	for i := range out {
		out[i], _ = g.next()
	}
	return out
}

func TestTheSameSeedMakesTheSameTraffic(t *testing.T) {
	equal(t, plan(7, 2000), plan(7, 2000))
	if a, b := plan(7, 10), plan(8, 10); a[0].at == b[0].at {
		t.Error("another seed makes the same traffic")
	}
}

func TestTrafficIsLifelike(t *testing.T) {
	all := plan(1, 20_000)
	types := map[string]int{}
	notes := map[string]bool{}
	for i, p := range all {
		if i > 0 && p.at < all[i-1].at {
			t.Fatal("the plan goes back in time")
		}
		e, err := events.Encode(p.event, events.Base{})
		if err != nil {
			t.Fatalf("%+v: %v", p.event, err)
		}
		types[e.Definition.Type]++
		if m, ok := p.event.(aura360.MoodCreated); ok {
			notes[m.Data.Notes] = true
		}
	}
	for typ, share := range map[string]float64{
		aura360.TypeMoodCreated: 0.6, aura360.TypeActivityCreated: 0.34, aura360.TypeGuardianRequest: 0.03,
		aura360.TypeIkigaiUpdated: 0.015, aura360.TypeProfileUpdated: 0.015,
	} {
		if got := float64(types[typ]) / float64(len(all)); got < share*0.8 || got > share*1.2 {
			t.Errorf("%s makes %.3f of the traffic, want about %.3f", typ, got, share)
		}
	}
	equal(t, 1+3*len(languages), len(notes))
	if end := all[len(all)-1].at; end < 190*time.Second || end > 210*time.Second {
		t.Errorf("20000 events at 100 per second take %v, want about 200s", end)
	}
}

// script is a source that plans what it is told.
type script []planned

func (s *script) next() (planned, bool) {
	if len(*s) == 0 {
		return planned{}, false
	}
	p := (*s)[0]
	*s = (*s)[1:]
	return p, true
}

func moodOf(user, notes string) events.Event {
	return aura360.MoodCreated{Base: events.Base{UserID: user}, Data: aura360.Mood{Notes: notes}}
}

func TestTrafficDoesNotWaitForASlowBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var sent []string
		tr := &traffic{
			source: &script{
				{1 * time.Second, moodOf("u1", "1")},
				{2 * time.Second, moodOf("u1", "2")},
				{3 * time.Second, moodOf("u1", "3")},
				{4 * time.Second, moodOf("u2", "4")},
			},
			send: func(_ context.Context, e events.Event) {
				if e.Key() == "u1" {
					wait(t.Context(), 10*time.Second)
				}
				mu.Lock()
				defer mu.Unlock()
				sent = append(sent, e.(aura360.MoodCreated).Data.Notes)
			},
		}
		done := make(chan struct{})
		go func() { defer close(done); tr.run(t.Context(), t.Context()) }()
		wait(t.Context(), 4500*time.Millisecond)
		equal(t, int64(4), tr.planned.Load())
		equal(t, int64(2), tr.waiting.Load())
		<-done
		equal(t, 31*time.Second, time.Since(start))
		equal(t, []string{"4", "1", "2", "3"}, sent)
	})
}

func TestStoppedTrafficDropsWhatWasNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop, end := context.WithCancel(t.Context())
		begun := make(chan struct{}, 3)
		tr := &traffic{
			source: &script{{0, moodOf("u1", "1")}, {0, moodOf("u1", "2")}, {0, moodOf("u1", "3")}, {time.Hour, moodOf("u1", "4")}},
			send: func(ctx context.Context, _ events.Event) {
				begun <- struct{}{}
				wait(ctx, time.Minute)
			},
		}
		done := make(chan struct{})
		go func() { defer close(done); tr.run(t.Context(), stop) }()
		<-begun
		synctest.Wait()
		end()
		<-done
		equal(t, []int64{3, 0, 2}, []int64{tr.planned.Load(), tr.waiting.Load(), tr.dropped.Load()})
	})
}

func TestInputSkipsAndNamesWrongLines(t *testing.T) {
	lines := []string{
		`{"user_id":"u1","mood_score":7,"notes":"bom dia"}`,
		``,
		`{"user_id":"u1"}`,
		`not json`,
		`{"user_id":"u2","mood_score":3,"event_id":"e2","created_at":"2025-06-02T07:30:00Z"}` + "\r",
		`{"user_id":"u2","mood_score":3,"notes":"` + strings.Repeat("x", maxLine) + `"}`,
		`{"user_id":"u3","mood_score":1,"created_at":"now"}`,
		`{"user_id":"u3","mood_score":10}`,
	}
	var said []string
	in := &input{
		lines: bufio.NewReader(strings.NewReader(strings.Join(lines, "\n"))), name: "moods.jsonl", rate: 10,
		report: func(s string) { said = append(said, s) },
	}
	var users []string
	var at []time.Duration
	for p, ok := in.next(); ok; p, ok = in.next() {
		users, at = append(users, p.event.Key()), append(at, p.at)
	}
	equal(t, []string{"u1", "u2", "u3"}, users)
	equal(t, []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond}, at)
	equal(t, int64(4), in.bad.Load())
	for i, want := range []string{"moods.jsonl:3: mood_score:", "moods.jsonl:4: body:", "moods.jsonl:6: line:", "moods.jsonl:7: created_at:"} {
		if !strings.HasPrefix(said[i], want) {
			t.Errorf("said %q, want it to begin with %q", said[i], want)
		}
	}
}

func TestEmbeddingIsClosestToTextsThatShareWords(t *testing.T) {
	s := newVectorStore()
	for i, text := range []string{"running for 30 minutes", "dormi mal, dia pesado", "よく眠れなかった"} {
		s.put("u1", string(rune('a'+i)), text, embed(text))
	}
	for query, want := range map[string]string{
		"how many minutes of running?": "running for 30 minutes", "Por que dormi mal?": "dormi mal, dia pesado",
		"どうして眠れなかったの": "よく眠れなかった",
	} {
		equal(t, want, s.nearest("u1", embed(query), 1)[0].text)
	}
	equal(t, 0, len(s.nearest("u2", embed("running"), 3)))
	s.put("u1", "a", "running for 45 minutes", embed("running for 45 minutes"))
	equal(t, 3, s.size())
	got := s.nearest("u1", embed("running for 45 minutes"), 1)[0]
	if got.similarity < 0.999 {
		t.Errorf("a text's similarity to itself is %v", got.similarity)
	}
	if slices.Contains(embed(""), 1) {
		t.Error("no text has a direction")
	}
}

func TestHistogramNeverUnderstates(t *testing.T) {
	var h histogram
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Millisecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond, 1: time.Second} {
		if got := h.quantile(q); got < want || got > want*110/100 {
			t.Errorf("quantile %v is %v, want %v or up to 10%% more", q, got, want)
		}
	}
	before := h
	h.add(time.Hour)
	equal(t, uint32(1), h.since(before).n)
	equal(t, time.Duration(0), histogram{}.quantile(0.5))
}
