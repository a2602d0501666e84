package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	kerrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	// nodeAddress is where the node, its load balancers and its ingresses
	// claim to be: an address of documentation, that nobody answers at.
	nodeAddress = "192.0.2.10"
	// localPath is the storage class that k3s brings: a claim is bound when
	// its first pod comes, and not before.
	localPath = "local-path"
)

// kubeletCommand stands in for what a k3s node does beside the control plane:
// scheduler, kubelet, the load balancer of services, ingress controller and
// local-path provisioner. Nothing runs; the objects' status say that it does.
// Programs that are run in containers and logs are served as a kubelet serves
// them, see serveStreams.
//
// What a pod pretends is scripted, see behaviourOf.
func kubeletCommand() *cobra.Command {
	var kubeconfig, node string
	command := &cobra.Command{
		Use:   "kubelet",
		Short: "a stand-in for the kubelet, which writes status and runs nothing",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return runKubelet(ctx, kubeconfig, node)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&node, "node", "edge", "the node to pretend to be")
	if err := command.MarkFlagRequired("kubeconfig"); err != nil {
		panic(err)
	}
	return command
}

func runKubelet(ctx context.Context, kubeconfig, node string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig %s: %w", kubeconfig, err)
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.UserAgent = "holdfast-test-kubelet"
	config.QPS, config.Burst = 500, 1000
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client of %s: %w", kubeconfig, err)
	}
	port, err := serveStreams(ctx, client, node)
	if err != nil {
		return err
	}
	for {
		err := prepareCluster(ctx, client, node, port)
		if err == nil {
			break
		}
		klog.ErrorS(err, "The node isn't registered yet")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
	newKeeper(client, node).run(ctx)
	return nil
}

// prepareCluster makes the node, ready and without a taint, reached at a port of
// the loopback, and k3s's storage class. What is there already is left as it is.
func prepareCluster(ctx context.Context, client kubernetes.Interface, name string, port int32) error {
	nodes := client.CoreV1().Nodes()
	_, err := nodes.Create(ctx, &core.Node{ObjectMeta: meta.ObjectMeta{
		Name: name,
		Labels: map[string]string{
			core.LabelHostname:                      name,
			core.LabelOSStable:                      "linux",
			core.LabelArchStable:                    "amd64",
			"node-role.kubernetes.io/control-plane": "true",
		},
	}}, meta.CreateOptions{})
	if err != nil && !kerrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating the node %s: %w", name, err)
	}
	node, err := nodes.Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the node %s: %w", name, err)
	}
	if len(node.Spec.Taints) > 0 {
		// Admission taints a new node as not ready, and no node controller
		// runs here that would take the taint away.
		node.Spec.Taints = nil
		if node, err = nodes.Update(ctx, node, meta.UpdateOptions{}); err != nil {
			return fmt.Errorf("untainting the node %s: %w", name, err)
		}
	}
	node.Status = nodeStatus(name, port)
	if _, err = nodes.UpdateStatus(ctx, node, meta.UpdateOptions{}); err != nil {
		return fmt.Errorf("making the node %s ready: %w", name, err)
	}
	_, err = client.StorageV1().StorageClasses().Create(ctx, storageClass(), meta.CreateOptions{})
	if err != nil && !kerrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating the storage class %s: %w", localPath, err)
	}
	return errors.Join(ctx.Err())
}

func nodeStatus(name string, port int32) core.NodeStatus {
	room := core.ResourceList{
		core.ResourceCPU:              resource.MustParse("4"),
		core.ResourceMemory:           resource.MustParse("8Gi"),
		core.ResourceEphemeralStorage: resource.MustParse("100Gi"),
		core.ResourcePods:             resource.MustParse("2000"),
	}
	return core.NodeStatus{
		Capacity:    room,
		Allocatable: room,
		Conditions: []core.NodeCondition{{
			Type: core.NodeReady, Status: core.ConditionTrue, Reason: "KubeletReady",
			Message: "pretended", LastHeartbeatTime: meta.Now(), LastTransitionTime: meta.Now(),
		}},
		Addresses: []core.NodeAddress{
			// Where the kubelet is; pods say that they are at nodeAddress.
			{Type: core.NodeInternalIP, Address: "127.0.0.1"},
			{Type: core.NodeHostName, Address: name},
		},
		DaemonEndpoints: core.NodeDaemonEndpoints{KubeletEndpoint: core.DaemonEndpoint{Port: port}},
		NodeInfo: core.NodeSystemInfo{
			OperatingSystem: "linux", Architecture: "amd64", KubeletVersion: "v0.0.0-test",
			ContainerRuntimeVersion: "none://0",
		},
	}
}

func storageClass() *storage.StorageClass {
	onFirstPod, remove := storage.VolumeBindingWaitForFirstConsumer, core.PersistentVolumeReclaimDelete
	return &storage.StorageClass{
		ObjectMeta: meta.ObjectMeta{
			Name:        localPath,
			Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"},
		},
		Provisioner:       "rancher.io/local-path",
		VolumeBindingMode: &onFirstPod,
		ReclaimPolicy:     &remove,
	}
}
