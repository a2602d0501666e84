package main

import (
	"context"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	kerrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listcore "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// workers is how many objects are looked at, at the same time.
const workers = 4

// item names an object that must be looked at.
type item struct {
	kind, namespace, name string
}

// The kinds that the stand-in keeps.
const (
	kindPod     = "Pod"
	kindClaim   = "PersistentVolumeClaim"
	kindVolume  = "PersistentVolume"
	kindService = "Service"
	kindIngress = "Ingress"
	kindScript  = "ConfigMap"
)

// keeper looks at every object again when it changed, or when it said that it
// wants to be looked at later.
type keeper struct {
	client    kubernetes.Interface
	node      string
	informers informers.SharedInformerFactory
	pods      listcore.PodLister
	claims    listcore.PersistentVolumeClaimLister
	scripts   listcore.ConfigMapLister
	queue     workqueue.TypedRateLimitingInterface[item]
}

func newKeeper(client kubernetes.Interface, node string) *keeper {
	factory := informers.NewSharedInformerFactory(client, 0)
	limit := workqueue.NewTypedItemExponentialFailureRateLimiter[item](20*time.Millisecond, 2*time.Second)
	keeper := &keeper{
		client:    client,
		node:      node,
		informers: factory,
		pods:      factory.Core().V1().Pods().Lister(),
		claims:    factory.Core().V1().PersistentVolumeClaims().Lister(),
		scripts:   factory.Core().V1().ConfigMaps().Lister(),
		queue:     workqueue.NewTypedRateLimitingQueue(limit),
	}
	keeper.follow(kindPod, factory.Core().V1().Pods().Informer())
	keeper.follow(kindClaim, factory.Core().V1().PersistentVolumeClaims().Informer())
	keeper.follow(kindVolume, factory.Core().V1().PersistentVolumes().Informer())
	keeper.follow(kindService, factory.Core().V1().Services().Informer())
	keeper.follow(kindIngress, factory.Networking().V1().Ingresses().Informer())
	keeper.follow(kindScript, scriptInformer(client, factory))
	return keeper
}

// follow puts every object of a kind into the queue when it changes.
func (k *keeper) follow(kind string, informer cache.SharedIndexInformer) {
	see := func(object any) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		if object, ok := object.(meta.Object); ok {
			k.queue.Add(item{kind, object.GetNamespace(), object.GetName()})
		}
	}
	// It fails only for an informer that was stopped.
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    see,
		UpdateFunc: func(_, object any) { see(object) },
		DeleteFunc: see,
	})
}

func (k *keeper) run(ctx context.Context) {
	k.informers.Start(ctx.Done())
	k.informers.WaitForCacheSync(ctx.Done())
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for k.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	k.queue.ShutDown()
	group.Wait()
}

// next looks at one object; false when the queue was shut down.
func (k *keeper) next(ctx context.Context) bool {
	item, down := k.queue.Get()
	if down {
		return false
	}
	defer k.queue.Done(item)
	again, err := k.look(ctx, item)
	switch {
	case err == nil:
		k.queue.Forget(item)
		if again > 0 {
			k.queue.AddAfter(item, again)
		}
	case kerrors.IsNotFound(err):
		k.queue.Forget(item)
	default:
		if !kerrors.IsConflict(err) {
			klog.ErrorS(err, "Will be tried again", "kind", item.kind, "namespace", item.namespace, "name", item.name)
		}
		k.queue.AddRateLimited(item)
	}
	return true
}

// look does what an object needs, and says after what time it must be looked
// at again even if it doesn't change; 0 for never.
func (k *keeper) look(ctx context.Context, item item) (time.Duration, error) {
	switch item.kind {
	case kindPod:
		return k.keepPod(ctx, item.namespace, item.name)
	case kindClaim:
		return 0, k.keepClaim(ctx, item.namespace, item.name)
	case kindVolume:
		return 0, k.keepVolume(ctx, item.name)
	case kindService:
		return 0, k.keepService(ctx, item.namespace, item.name)
	case kindIngress:
		return 0, k.keepIngress(ctx, item.namespace, item.name)
	case kindScript:
		return 0, k.lookAtPodsOf(item.namespace)
	}
	return 0, nil
}

// lookAtPodsOf has every pod of a namespace looked at, as its script changed.
func (k *keeper) lookAtPodsOf(namespace string) error {
	pods, err := k.pods.Pods(namespace).List(labels.Everything())
	for _, pod := range pods {
		k.queue.Add(item{kindPod, pod.Namespace, pod.Name})
	}
	return err
}

// podsWithClaim are the pods that mount a claim.
func (k *keeper) podsWithClaim(namespace, claim string) []*core.Pod {
	pods, err := k.pods.Pods(namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	var found []*core.Pod
	for _, pod := range pods {
		for _, name := range claimsOf(pod) {
			if name == claim {
				found = append(found, pod)
			}
		}
	}
	return found
}
