package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	utilexec "k8s.io/utils/exec"
)

// streams is the part of the kubelet's HTTPS API that the API server passes
// requests on to: programs in containers, and their logs.
type streams struct {
	ctx    context.Context
	client kubernetes.Interface
	node   string
}

// serveStreams listens on a free port of the loopback until ctx ends, and gives
// the port.
func serveStreams(ctx context.Context, client kubernetes.Interface, node string) (int32, error) {
	certificate, err := ownCertificate()
	if err != nil {
		return 0, fmt.Errorf("making the kubelet's certificate: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("listening as the kubelet: %w", err)
	}
	s := &streams{ctx, client, node}
	routes := http.NewServeMux()
	// With websockets it is asked by GET, with SPDY by POST.
	routes.HandleFunc("/exec/{namespace}/{pod}/{container}", s.exec)
	routes.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	// Connections that are upgraded are those of HTTP/1.1.
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	server := &http.Server{
		Handler:   routes,
		Protocols: protocols,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
	}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	go func() {
		if err := server.ServeTLS(listener, "", ""); ctx.Err() == nil {
			klog.ErrorS(err, "The kubelet's API ended")
		}
	}()
	return int32(listener.Addr().(*net.TCPAddr).Port), nil
}

// ownCertificate is signed by itself, as a kubelet's that was given none.
func ownCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key}, err
}

// container is the one that a request is about: its pod and its status. A
// request for one that isn't on this node is answered here, with nil.
func (s *streams) container(w http.ResponseWriter, r *http.Request) (*core.Pod, *core.ContainerStatus) {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	pod, err := s.client.CoreV1().Pods(namespace).Get(r.Context(), name, meta.GetOptions{})
	if err != nil || pod.Spec.NodeName != s.node {
		http.Error(w, fmt.Sprintf("pod %q does not exist", name), http.StatusNotFound)
		return nil, nil
	}
	all := append(append([]core.ContainerStatus{}, pod.Status.ContainerStatuses...), pod.Status.InitContainerStatuses...)
	status := find(all, r.PathValue("container"))
	if status.Name == "" {
		text := fmt.Sprintf("container %q not found in pod %q", r.PathValue("container"), name)
		http.Error(w, text, http.StatusNotFound)
		return nil, nil
	}
	return pod, &status
}

// exec pretends to run a program in a container; how it ends is scripted.
func (s *streams) exec(w http.ResponseWriter, r *http.Request) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pod, status := s.container(w, r)
	if pod == nil {
		return
	}
	if status.State.Running == nil {
		http.Error(w, fmt.Sprintf("container %s is not running", status.Name), http.StatusInternalServerError)
		return
	}
	command := r.URL.Query()["command"]
	klog.InfoS("Runs a program", "namespace", pod.Namespace, "pod", pod.Name, "container", status.Name,
		"command", command)
	program := &program{s.ctx, pod.Annotations[execKey]}
	remotecommand.ServeExec(w, r, program, pod.Name, string(pod.UID), status.Name, command, options,
		time.Hour, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

// program is what pretends to run in a container.
type program struct {
	ctx    context.Context
	script string
}

// ExecInContainer does what the script says, in its order. The words for an
// exit code are about those of containerd.
func (p *program) ExecInContainer(
	_ context.Context, _, _, _ string, command []string, _ io.Reader, out, err io.WriteCloser, _ bool,
	_ <-chan remotecommand.TerminalSize, _ time.Duration,
) error {
	for _, step := range stepsOf(p.script) {
		switch step.word {
		case "stdout":
			_ = writeTo(out, step.rest)
		case "stderr":
			_ = writeTo(err, step.rest)
		case "hang":
			// Nobody ends it when the one who asked has gone: so it is in a real
			// container as well.
			<-p.ctx.Done()
			return p.ctx.Err()
		case "exit":
			if code, bad := strconv.Atoi(step.rest); bad == nil && code != 0 {
				said := fmt.Errorf("error executing command %q, exit code %d", command, code)
				return utilexec.CodeExitError{Err: said, Code: code}
			}
			return nil
		default:
			return fmt.Errorf("the test's script has a word that nobody knows: %q", step.word)
		}
	}
	return nil
}

// writeTo writes a text to a stream that was asked for.
func writeTo(stream io.Writer, text string) error {
	if stream == nil {
		return nil
	}
	return tell(stream, text+"\n")
}

// logs tells what a container said, as its pod is scripted.
func (s *streams) logs(w http.ResponseWriter, r *http.Request) {
	pod, status := s.container(w, r)
	if pod == nil {
		return
	}
	query := r.URL.Query()
	key, why := logOf(pod, status, query.Get("previous") == "true")
	if why != "" {
		http.Error(w, why, http.StatusBadRequest)
		return
	}
	log := &bytes.Buffer{}
	if text := pod.Annotations[key]; text != "" {
		if text == "hang" {
			select {
			case <-s.ctx.Done():
			case <-r.Context().Done():
			}
			return
		}
		_ = tell(log, text+"\n")
	}
	_, _ = w.Write(cutLog(log.Bytes(), query))
}

// logOf says which annotation has the log that is asked for, or why there is
// none: as the kubelet's validateContainerLogStatus does.
func logOf(pod *core.Pod, status *core.ContainerStatus, previous bool) (key, why string) {
	before := status.LastTerminationState.Terminated
	switch {
	case previous && before == nil:
		return "", fmt.Sprintf("previous terminated container %q in pod %q not found", status.Name, pod.Name)
	case previous:
		return previousLogKey, ""
	case status.State.Running != nil || status.State.Terminated != nil:
		return logKey, ""
	case before != nil:
		// It waits for its next start: the last one's is shown.
		return previousLogKey, ""
	}
	return "", fmt.Sprintf("container %q in pod %q is waiting to start", status.Name, pod.Name)
}

// cutLog leaves the last lines, and of these the first bytes.
func cutLog(log []byte, query url.Values) []byte {
	if count, err := strconv.Atoi(query.Get("tailLines")); err == nil {
		at := len(log)
		for ; count > 0 && at > 0; count-- {
			at = bytes.LastIndexByte(log[:at-1], '\n') + 1
		}
		log = log[at:]
	}
	if limit, err := strconv.Atoi(query.Get("limitBytes")); err == nil && limit < len(log) {
		log = log[:limit]
	}
	return log
}
