package events

// The two ways to read a time: the short one, and package time's.
var (
	ParsePlainTime = parsePlainTime[string]
	ParseTimeByLib = parseTime
)
