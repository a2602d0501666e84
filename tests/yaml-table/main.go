// Reads YAML as kubectl does, for the tests to compare: the same reader of streams (apimachinery) and the
// same decoder (sigs.k8s.io/yaml), of the release that the control plane of the tests has.
//
// table.jsonl has a JSON object a line: `yaml`, and what comes of it. Only `yaml` is read here, and the whole
// line is written anew. To add a case, append {"yaml": "…"} and run
//
//	go run . <table.jsonl >new.jsonl && mv new.jsonl table.jsonl
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	kube "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// What kubectl makes of one text.
type answer struct {
	YAML string `json:"yaml"`
	// The documents, empty ones left out.
	Documents []json.RawMessage `json:"documents,omitempty"`
	// Why kubectl takes none of it.
	Refused string `json:"refused,omitempty"`
	// Why its strict decoder takes none of it, which refuses duplicate keys too.
	Strict string `json:"strict,omitempty"`
	// It reads the same text now this way, now that: of two keys that become the same one it keeps whichever Go's
	// order of a map, which is random, brings last. The answer is the first of them in the order of their bytes.
	Varies bool `json:"varies,omitempty"`
}

// How often each text is read. Of two ways that are equally likely both are seen but once in 2^63 times.
const times = 64

func main() {
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	in := json.NewDecoder(os.Stdin)
	for {
		var line answer
		err := in.Decode(&line)
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = out.Encode(readAgain(line.YAML))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func readAgain(input string) answer {
	first := read(input)
	for range times - 1 {
		next := read(input)
		order := bytes.Compare(encoded(next), encoded(first))
		varies := first.Varies || order != 0
		if order < 0 {
			first = next
		}
		first.Varies = varies
	}
	return first
}

// Without what is said of the other answers.
func encoded(answer answer) []byte {
	answer.Varies = false
	text, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	return text
}

func read(input string) answer {
	answer := answer{YAML: input}
	reader := kube.NewYAMLReader(bufio.NewReader(strings.NewReader(input)))
	for {
		chunk, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return answer
		}
		if err != nil {
			return refused(input, err)
		}
		document, err := yaml.YAMLToJSON(chunk)
		if err != nil {
			return refused(input, err)
		}
		if !bytes.Equal(document, []byte("null")) {
			answer.Documents = append(answer.Documents, document)
		}
		if _, err := yaml.YAMLToJSONStrict(chunk); err != nil && answer.Strict == "" {
			answer.Strict = firstLine(err)
		}
	}
}

func refused(input string, err error) answer {
	return answer{YAML: input, Refused: firstLine(err)}
}

// Errors of several lines differ in the order of these.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
