package main

import (
	"context"
	"fmt"
	"slices"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	kerrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// keepClaim makes a volume for a claim, as k3s's local-path provisioner does:
// when the first pod of the claim has a node. A claim of another storage class,
// or of none, gets its volume at once.
func (k *keeper) keepClaim(ctx context.Context, namespace, name string) error {
	claim, err := k.claims.PersistentVolumeClaims(namespace).Get(name)
	if err != nil {
		return err
	}
	if claim.Status.Phase == core.ClaimBound {
		// Its pods may start now.
		for _, pod := range k.podsWithClaim(namespace, name) {
			if pod.Status.Phase == core.PodPending {
				k.queue.Add(item{kindPod, namespace, pod.Name})
			}
		}
		return nil
	}
	waiting := claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil
	if !waiting || claim.Annotations[behaviourKey] == pending {
		return nil
	}
	class := ""
	if claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	hasNode := func(pod *core.Pod) bool { return pod.Spec.NodeName != "" }
	if class == localPath && !slices.ContainsFunc(k.podsWithClaim(namespace, name), hasNode) {
		return nil
	}
	_, err = k.client.CoreV1().PersistentVolumes().Create(ctx, volumeFor(claim, class), meta.CreateOptions{})
	if err != nil && !kerrors.IsAlreadyExists(err) {
		return fmt.Errorf("making a volume for the claim %s/%s: %w", namespace, name, err)
	}
	return nil
}

func volumeFor(claim *core.PersistentVolumeClaim, class string) *core.PersistentVolume {
	name := "pvc-" + string(claim.UID)
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: core.PersistentVolumeSpec{
			Capacity:                      claim.Spec.Resources.Requests,
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    claim.Spec.VolumeMode,
			StorageClassName:              class,
			PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimDelete,
			PersistentVolumeSource: core.PersistentVolumeSource{
				HostPath: &core.HostPathVolumeSource{Path: "/nowhere/" + name},
			},
			ClaimRef: &core.ObjectReference{
				APIVersion: "v1", Kind: kindClaim, Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
		},
	}
}

// keepVolume takes a volume away when its claim is gone.
func (k *keeper) keepVolume(ctx context.Context, name string) error {
	volume, err := k.informers.Core().V1().PersistentVolumes().Lister().Get(name)
	if err != nil {
		return err
	}
	over := volume.Status.Phase == core.VolumeReleased || volume.Status.Phase == core.VolumeFailed
	if !over || volume.DeletionTimestamp != nil ||
		volume.Spec.PersistentVolumeReclaimPolicy != core.PersistentVolumeReclaimDelete {
		return nil
	}
	return k.client.CoreV1().PersistentVolumes().Delete(ctx, name, meta.DeleteOptions{})
}

// keepService gives a service of type LoadBalancer the node's address, as
// k3s's service load balancer does.
func (k *keeper) keepService(ctx context.Context, namespace, name string) error {
	service, err := k.informers.Core().V1().Services().Lister().Services(namespace).Get(name)
	if err != nil {
		return err
	}
	if service.Spec.Type != core.ServiceTypeLoadBalancer || service.DeletionTimestamp != nil ||
		service.Annotations[behaviourKey] == pending || len(service.Status.LoadBalancer.Ingress) > 0 {
		return nil
	}
	service = service.DeepCopy()
	service.Status.LoadBalancer.Ingress = []core.LoadBalancerIngress{{IP: nodeAddress}}
	if _, err = k.client.CoreV1().Services(namespace).UpdateStatus(ctx, service, meta.UpdateOptions{}); err != nil {
		return fmt.Errorf("giving the service %s/%s an address: %w", namespace, name, err)
	}
	return nil
}

// keepIngress gives an ingress the node's address, as k3s's Traefik does.
func (k *keeper) keepIngress(ctx context.Context, namespace, name string) error {
	ingress, err := k.informers.Networking().V1().Ingresses().Lister().Ingresses(namespace).Get(name)
	if err != nil {
		return err
	}
	if ingress.DeletionTimestamp != nil || ingress.Annotations[behaviourKey] == pending ||
		len(ingress.Status.LoadBalancer.Ingress) > 0 {
		return nil
	}
	ingress = ingress.DeepCopy()
	ingress.Status.LoadBalancer.Ingress = []networking.IngressLoadBalancerIngress{{IP: nodeAddress}}
	_, err = k.client.NetworkingV1().Ingresses(namespace).UpdateStatus(ctx, ingress, meta.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("giving the ingress %s/%s an address: %w", namespace, name, err)
	}
	return nil
}
