// Go's side of `penstock bench`: the same questions, asked of goroutines and channels.
//
// It answers on stdout, a line of JSON each: first what it is, then for every "QUESTION COUNT" read from
// stdin the nanoseconds that COUNT operations took, their loop included, or the bytes. Nothing else runs between
// two questions, and the heap is collected before the clock starts, as on the Python side. The argument
// "cpu" makes it count the CPU time of the process.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// When the clock was made, so that its readings can be subtracted.
var origin = time.Now()

// What time is counted: the monotonic clock, or what this process used of the CPUs.
var now = func() time.Duration { return time.Since(origin) }

func used() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func empty(finished *sync.WaitGroup) { finished.Done() }

// Goroutines from creation to exit, spawned by one of them. There are no handles to keep; the
// WaitGroup stands for waiting on them.
func spawn(count int) time.Duration {
	var finished sync.WaitGroup
	start := now()
	finished.Add(count)
	for range count {
		go empty(&finished)
	}
	finished.Wait()
	return now() - start
}

// A buffered send and its receive, with nobody else at the channel.
func pair(count int) time.Duration {
	channel := make(chan int, 16)
	start := now()
	for range count {
		channel <- 1
		<-channel
	}
	return now() - start
}

// Goroutines that start two goroutines each, until there are count.
func spawnTree(count int) time.Duration {
	var finished sync.WaitGroup
	var branch func(size int)
	branch = func(size int) {
		left := (size - 1) / 2
		for _, part := range [2]int{left, size - 1 - left} {
			if part > 0 {
				go branch(part)
			}
		}
		finished.Done()
	}
	start := now()
	finished.Add(count)
	go branch(count)
	finished.Wait()
	return now() - start
}

// Items from producers to as many consumers over one channel, until the last has seen its end.
func pipeline(ends int) func(int) time.Duration {
	return func(count int) time.Duration {
		channel := make(chan int, 1024)
		var producers, consumers sync.WaitGroup
		var taken atomic.Int64
		start := now()
		for range ends {
			consumers.Go(func() {
				mine := 0
				for range channel {
					mine++
				}
				taken.Add(int64(mine))
			})
			producers.Go(func() {
				for range count / ends {
					channel <- 1
				}
			})
		}
		producers.Wait()
		close(channel)
		consumers.Wait()
		elapsed := now() - start
		if taken.Load() != int64(count/ends*ends) {
			panic("an item was lost")
		}
		return elapsed
	}
}

// Additions by some goroutines at once, each its share.
func share(goroutines int, count int, add func(int)) time.Duration {
	var finished sync.WaitGroup
	start := now()
	for range goroutines - 1 {
		finished.Go(func() { add(count / goroutines) })
	}
	add(count / goroutines)
	finished.Wait()
	return now() - start
}

func atomics(goroutines int) func(int) time.Duration {
	return func(count int) time.Duration {
		var number atomic.Int64
		return share(goroutines, count, func(count int) {
			for range count {
				number.Add(1)
			}
		})
	}
}

func mutexes(goroutines int) func(int) time.Duration {
	return func(count int) time.Duration {
		var lock sync.Mutex
		number := 0
		return share(goroutines, count, func(count int) {
			for range count {
				lock.Lock()
				number++
				lock.Unlock()
			}
		})
	}
}

// A pooled object is taken and given back.
func pool(count int) time.Duration {
	objects := sync.Pool{New: func() any { return new([4096]byte) }}
	objects.Put(objects.Get())
	start := now()
	for range count {
		objects.Put(objects.Get())
	}
	return now() - start
}

func resident() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		panic(err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		panic(err)
	}
	return pages * int64(os.Getpagesize())
}

// The bytes by which the process grows while goroutines start and come to wait.
func parked(count int) int64 {
	var begun atomic.Int64
	var finished sync.WaitGroup
	channel := make(chan int)
	before := resident()
	for range count {
		finished.Go(func() {
			begun.Add(1)
			<-channel
		})
	}
	for begun.Load() < int64(count) {
		time.Sleep(time.Millisecond)
	}
	grown := resident() - before
	close(channel)
	finished.Wait()
	return grown
}

// A round trip between two goroutines over two unbuffered channels.
func pingpong(count int) time.Duration {
	there, back := make(chan int), make(chan int)
	go func() {
		for range count {
			back <- <-there
		}
	}()
	start := now()
	for range count {
		there <- 1
		<-back
	}
	return now() - start
}

// A select over four receives of which one is ready, and the send that makes it so.
func selects(count int) time.Duration {
	a, b, c, d := make(chan int, 1), make(chan int, 1), make(chan int, 1), make(chan int, 1)
	channels := [4]chan int{a, b, c, d}
	start := now()
	for turn := range count {
		channels[turn&3] <- 1
		select {
		case <-a:
		case <-b:
		case <-c:
		case <-d:
		}
	}
	return now() - start
}

// What the collector looks at: a pointer, and as many bytes as a small list of Python's has with its number.
type object struct {
	next *object
	pad  [14]int64
}

func objects(count int) (first *object) {
	for range count {
		first = &object{next: first}
	}
	return first
}

// How late a ticker of one millisecond is beside a goroutine that makes more objects than are there and keeps
// them: the longest lateness, and the one that 99.9 in 100 ticks do not exceed. A tick that was missed counts as well.
func lateness(count int) map[string]int64 {
	const interval, batch = time.Millisecond, 10000
	heap := []*object{}
	retain := func(count int) {
		for range count / batch {
			heap = append(heap, objects(batch))
		}
	}
	retain(count)
	runtime.GC()
	var ended atomic.Bool
	var ticker sync.WaitGroup
	late := []time.Duration{}
	ticker.Go(func() {
		for due := time.Now().Add(interval); !ended.Load(); {
			time.Sleep(time.Until(due))
			for now := time.Now(); !due.After(now); due = due.Add(interval) {
				late = append(late, now.Sub(due))
			}
		}
	})
	retain(count * 12 / 10)
	ended.Store(true)
	ticker.Wait()
	runtime.KeepAlive(heap)
	slices.Sort(late)
	at := (len(late)*999+999)/1000 - 1
	return map[string]int64{"worst": late[len(late)-1].Nanoseconds(), "late": late[at].Nanoseconds()}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "cpu" {
		now = used
	}
	timed := map[string]func(int) time.Duration{
		"spawn":         spawn,
		"spawn_tree":    spawnTree,
		"pair":          pair,
		"pingpong":      pingpong,
		"select":        selects,
		"pipeline":      pipeline(1),
		"pipeline_four": pipeline(4),
		"atomic":        atomics(1),
		"atomic_two":    atomics(2),
		"mutex":         mutexes(1),
		"mutex_two":     mutexes(2),
		"pool":          pool,
	}
	rows := map[string]func(int) any{
		"gc":     func(count int) any { return lateness(count) },
		"parked": func(count int) any { return parked(count) },
	}
	for name, row := range timed {
		rows[name] = func(count int) any { return row(count).Nanoseconds() }
	}
	names, _ := json.Marshal(slices.Collect(maps.Keys(rows)))
	fmt.Printf("{\"version\": %q, \"rows\": %s}\n", runtime.Version(), names)
	questions := bufio.NewScanner(os.Stdin)
	for questions.Scan() {
		var row string
		var count int
		if _, err := fmt.Sscan(questions.Text(), &row, &count); err != nil || rows[row] == nil {
			fmt.Printf("{\"error\": %q}\n", "not a question: "+questions.Text())
			continue
		}
		answer := make(chan any)
		runtime.GC()
		go func() { answer <- rows[row](count) }()
		amount, _ := json.Marshal(<-answer)
		fmt.Printf("{\"amount\": %s}\n", amount)
	}
}
