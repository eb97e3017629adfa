package job

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size. In JSON it is written as an integer; it is read from an
// integer or from text with a unit: "64Mi", "10MB", "512".
type Bytes int64

// Binary units of Bytes.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
)

// ParseBytes reads a size: a whole number of bytes, or a number followed by
// one of k, M, G, T (powers of 1000) or Ki, Mi, Gi, Ti (powers of 1024), each
// with or without a final B.
func ParseBytes(text string) (Bytes, error) {
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	unit, ok := sizeUnits[strings.TrimSuffix(strings.TrimSpace(text[len(digits):]), "B")]
	value, err := strconv.ParseFloat(digits, 64)
	if err != nil || !ok || value < 0 || value*unit >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size; write bytes as a whole number, or text such as \"64Mi\" or \"2GB\"", text)
	}
	return Bytes(value * unit), nil
}

var sizeUnits = map[string]float64{
	"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}

// UnmarshalJSON reads an integer or a text.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	n, err := strconv.ParseInt(string(data), 10, 64)
	if err == nil { // as records have it
		*b = Bytes(n)
		return nil
	}
	var text string
	if json.Unmarshal(data, &text) != nil {
		return fmt.Errorf("%s is not a size; write bytes as a whole number, or text such as \"64Mi\"", data)
	}
	*b, err = ParseBytes(text)
	return err
}

// String writes the size with the largest binary unit that divides it.
func (b Bytes) String() string {
	for _, u := range []struct {
		size Bytes
		name string
	}{{GiB, "Gi"}, {MiB, "Mi"}, {KiB, "Ki"}} {
		if b >= u.size && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// Millis is a duration in whole milliseconds. In JSON it is written as an
// integer; it is read from an integer or from text such as "10s" or "1m30s".
type Millis int64

// MillisOf rounds d down to milliseconds.
func MillisOf(d time.Duration) Millis { return Millis(d / time.Millisecond) }

// Duration is m as a time.Duration.
func (m Millis) Duration() time.Duration { return time.Duration(m) * time.Millisecond }

// String writes m as Go writes durations: "1.5s".
func (m Millis) String() string { return m.Duration().String() }

// UnmarshalJSON reads an integer or a text.
func (m *Millis) UnmarshalJSON(data []byte) error {
	n, err := strconv.ParseInt(string(data), 10, 64)
	if err == nil && n <= math.MaxInt64/int64(time.Millisecond) { // as records have it
		*m = Millis(n)
		return nil
	}
	var text string
	if json.Unmarshal(data, &text) != nil {
		return fmt.Errorf("%s is not a duration; write milliseconds as a whole number, or text such as \"10s\"", data)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is not a duration; write milliseconds as a whole number, or text such as \"10s\"", text)
	}
	*m = MillisOf(d)
	return nil
}
