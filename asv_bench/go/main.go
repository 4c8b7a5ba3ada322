// Go's side of figures.py: the same questions, asked of goroutines and channels.
//
// It answers on stdout, a line of JSON each: first what it is, then for every "ROW COUNT" read from
// stdin the nanoseconds that COUNT operations took, their loop included. Nothing else runs between
// two questions, and the heap is collected before the clock starts, as on the Python side. The argument
// "cpu" makes it count the CPU time of the process.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sync"
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

func main() {
	if len(os.Args) > 1 && os.Args[1] == "cpu" {
		now = used
	}
	rows := map[string]func(int) time.Duration{"spawn": spawn, "pair": pair, "pingpong": pingpong}
	fmt.Printf("{\"version\": %q, \"rows\": [\"spawn\", \"pair\", \"pingpong\"]}\n", runtime.Version())
	questions := bufio.NewScanner(os.Stdin)
	for questions.Scan() {
		var row string
		var count int
		if _, err := fmt.Sscan(questions.Text(), &row, &count); err != nil || rows[row] == nil {
			fmt.Printf("{\"error\": %q}\n", "not a question: "+questions.Text())
			continue
		}
		answer := make(chan time.Duration)
		runtime.GC()
		go func() { answer <- rows[row](count) }()
		fmt.Printf("{\"ns\": %d}\n", (<-answer).Nanoseconds())
	}
}
