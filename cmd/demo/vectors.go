package main

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// The embedding: words and the letter triples in them, hashed into a vector of
// 64 numbers whose length is one. It knows no meaning, but texts that share
// words, or parts of words, in any language, come out close to each other.
const (
	embeddingModel   = "feature-hashing-64"
	embeddingVersion = "1"
	dimensions       = 64
)

func embed(text string) []float64 {
	v := make([]float64, dimensions)
	add := func(feature string, weight float64) {
		h := fnv.New64a()
		h.Write([]byte(feature))
		sum := h.Sum64()
		if sum>>63 == 1 { // half of the features count down: collisions cancel out
			weight = -weight
		}
		v[sum%dimensions] += weight
	}
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	for _, w := range words {
		add(w, 1)
		letters := []rune(" " + w + " ")
		for i := range len(letters) - 2 {
			add(string(letters[i:i+3]), 0.5)
		}
	}
	length := math.Sqrt(dot(v, v))
	if length == 0 {
		return v
	}
	for i := range v {
		v[i] /= length
	}
	return v
}

func dot(a, b []float64) float64 {
	sum := 0.0
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

// vectorStore keeps the newest vectors of every user. It is safe for concurrent
// use.
type vectorStore struct {
	mu    sync.RWMutex
	users map[string][]stored
	count int
}

type stored struct {
	id, text string
	vector   []float64
}

// match is what a search found: similarity is the cosine of the two, -1 to 1.
type match struct {
	text       string
	similarity float64
}

const perUser = 100 // vectors kept of each user

func newVectorStore() *vectorStore { return &vectorStore{users: map[string][]stored{}} }

// put keeps a vector under an id; putting it again replaces it.
func (s *vectorStore) put(user, id, text string, vector []float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.users[user]
	if i := slices.IndexFunc(list, func(x stored) bool { return x.id == id }); i >= 0 {
		list[i] = stored{id, text, vector}
		return
	}
	s.count++
	s.users[user] = append(list[max(0, len(list)+1-perUser):], stored{id, text, vector})
}

// nearest returns up to n of the user's vectors with the greatest similarity
// above 0, the best first, of each text one.
func (s *vectorStore) nearest(user string, vector []float64, n int) []match {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []match
	for _, x := range slices.Backward(s.users[user]) {
		similarity := dot(vector, x.vector)
		if similarity > 0 && !slices.ContainsFunc(all, func(m match) bool { return m.text == x.text }) {
			all = append(all, match{x.text, similarity})
		}
	}
	slices.SortStableFunc(all, func(a, b match) int { return cmp.Compare(b.similarity, a.similarity) })
	return all[:min(n, len(all))]
}

// size is how many vectors were stored so far.
func (s *vectorStore) size() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.count
}
