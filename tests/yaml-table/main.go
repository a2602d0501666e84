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
}

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
			err = out.Encode(read(line.YAML))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
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
