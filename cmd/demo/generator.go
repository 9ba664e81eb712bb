package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/aura360/eventbus/events"
	"github.com/aura360/eventbus/events/aura360"
)

// generator makes lifelike traffic: users who sleep and wake, whose moods
// drift, who move, write notes in their languages and ask their guardians. The
// same seed, rate and number of users make the same events at the same times,
// but for the ids, which the bus gives them. A second of traffic is an hour of the users' lives.
type generator struct {
	rng   *rand.Rand
	rate  float64
	users []*user
	at    time.Duration
}

type user struct {
	id       string
	language int
	wakes    float64 // hour of the day
	calm     float64 // the mood they come back to, 0 to 10
	mood     float64
	sport    int
	weight   float64 // kg
}

// day is where the users' calendar starts.
var day = time.Date(2025, time.June, 2, 6, 0, 0, 0, time.UTC)

func newGenerator(seed uint64, rate float64, users int) *generator {
	g := &generator{rng: rand.New(rand.NewPCG(seed, 360)), rate: rate}
	for i := range users {
		calm := 4.5 + 4*g.rng.Float64()
		g.users = append(g.users, &user{
			id: fmt.Sprintf("user-%04d", i+1), language: g.rng.IntN(len(languages)), wakes: 5 + 4*g.rng.Float64(),
			calm: calm, mood: calm, sport: g.rng.IntN(len(sports)), weight: 50 + 45*g.rng.Float64(),
		})
	}
	return g
}

// next returns the next event. They come as a Poisson process does: at random,
// rate per second on average.
func (g *generator) next() (planned, bool) {
	g.at += time.Duration(g.rng.ExpFloat64() / g.rate * float64(time.Second))
	clock := day.Add(g.at * 3600).Truncate(time.Second)
	hour := float64(clock.Hour()) + float64(clock.Minute())/60
	u := g.users[g.rng.IntN(len(g.users))]
	for range 20 { // look for somebody who is awake
		if g.rng.Float64() < u.awake(hour) {
			break
		}
		u = g.users[g.rng.IntN(len(g.users))]
	}
	return planned{g.at, g.event(u, clock, hour)}, true
}

// awake is how busy the user is at an hour of the day: most in the morning and
// in the evening, hardly at night.
func (u *user) awake(hour float64) float64 {
	since := math.Mod(hour-u.wakes+24, 24)
	switch {
	case since > 16:
		return 0.02
	case since < 2, since > 11 && since < 14:
		return 1
	}
	return 0.5
}

func (g *generator) event(u *user, clock time.Time, hour float64) events.Event {
	base := events.Base{UserID: u.id}
	switch p := g.rng.Float64(); {
	case p < 0.60:
		return aura360.MoodCreated{Base: base, Data: g.mood(u, clock, hour)}
	case p < 0.94:
		s := sports[u.sport]
		if g.rng.Float64() < 0.3 {
			s = sports[g.rng.IntN(len(sports))]
		}
		minutes := math.Round(10 + 50*g.rng.Float64())
		return aura360.ActivityCreated{Base: base, Data: aura360.Activity{
			ActivityType: s.name, Duration: minutes, Calories: math.Round(s.met * u.weight * minutes / 60),
		}}
	case p < 0.97:
		q := questions[g.rng.IntN(len(questions))]
		return aura360.GuardianRequest{
			Base: base, GuardianType: q.guardian, Query: q.text[u.language],
		}
	case p < 0.985:
		return aura360.IkigaiUpdated{Base: base, Data: aura360.Ikigai{
			Passions: []string{sports[u.sport].name}, Missions: []string{"health"},
		}}
	}
	return aura360.ProfileUpdated{Base: base, Data: map[string]any{"language": languages[u.language].code}}
}

// mood lets the user's mood drift: back to their own, a little up and down with
// the day, and by chance.
func (g *generator) mood(u *user, clock time.Time, hour float64) aura360.Mood {
	daily := 0.6 * math.Sin((hour-u.wakes-2)/24*2*math.Pi)
	u.mood += 0.3*(u.calm+daily-u.mood) + 0.7*g.rng.NormFloat64()
	u.mood = min(max(u.mood, 0), 10)
	level := min(int(u.mood/10*3), 2) // low, middling, high
	m := aura360.Mood{Score: math.Round(u.mood*10) / 10, CreatedAt: clock}
	for _, i := range g.rng.Perm(len(tags[level]))[:1+g.rng.IntN(2)] {
		m.Tags = append(m.Tags, tags[level][i])
	}
	if g.rng.Float64() < 0.25 {
		m.Notes = languages[u.language].notes[level]
	}
	return m
}

var tags = [3][]string{
	{"tired", "anxious", "sad", "tense"},
	{"calm", "busy", "thoughtful"},
	{"happy", "grateful", "energetic", "calm"},
}

var languages = []struct {
	code  string
	notes [3]string // by level of mood
}{
	{"pt", [3]string{"dormi mal, dia pesado", "dia normal, um pouco de trabalho", "caminhei na praia com a família"}},
	{"en", [3]string{"slept badly, long day", "an ordinary day at work", "a long walk with friends"}},
	{"es", [3]string{"dormí mal, mucho estrés", "un día tranquilo", "comida con la familia, muy contento"}},
	{"de", [3]string{"schlecht geschlafen, viel Stress", "ein ruhiger Tag", "schöner Spaziergang im Wald"}},
	{"ja", [3]string{"よく眠れなかった", "ふつうの一日", "友だちと散歩して楽しかった"}},
}

var sports = []struct {
	name string
	met  float64 // kcal per kg and hour
}{{"walking", 3.5}, {"running", 9.8}, {"cycling", 7.5}, {"yoga", 2.5}, {"swimming", 6}, {"strength training", 5}}

var questions = []struct {
	guardian aura360.GuardianType
	text     [5]string // in the languages' order
}{
	{aura360.GuardianMental, [5]string{
		"Por que dormi mal?", "Why do I feel tired and anxious?", "¿Por qué tengo tanto estrés?",
		"Warum habe ich schlecht geschlafen?", "どうして眠れなかったの？",
	}},
	{aura360.GuardianPhysical, [5]string{
		"Quantos minutos de atividade?", "How many minutes of running did I do?", "¿Cuántos minutos de actividad?",
		"Wie viele Minuten Bewegung?", "散歩は足りている？",
	}},
	{aura360.GuardianSpiritual, [5]string{
		"O que me deixa grato?", "What makes me grateful and calm?", "¿Qué me hace estar contento?",
		"Was macht mich dankbar?", "楽しかったのはいつ？",
	}},
	{aura360.GuardianHolistic, [5]string{
		"Como está meu equilíbrio?", "How do mood and minutes of walking go together?", "¿Cómo estoy en general?",
		"Wie hängen Stimmung und Sport zusammen?", "心と体のバランスは？",
	}},
}
