// Go's side of figures.py: the same questions, asked of goroutines and channels.
//
// It answers on stdout, a line of JSON each: first what it is, then for every "ROW COUNT" read from
// stdin the nanoseconds that COUNT operations took, their loop included. Nothing else runs between
// two questions, and the heap is collected before the clock starts, as on the Python side.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
)

func empty(finished *sync.WaitGroup) { finished.Done() }

// Goroutines from creation to exit, spawned by one of them. There are no handles to keep; the
// WaitGroup stands for waiting on them.
func spawn(count int) time.Duration {
	var finished sync.WaitGroup
	start := time.Now()
	finished.Add(count)
	for range count {
		go empty(&finished)
	}
	finished.Wait()
	return time.Since(start)
}

// A buffered send and its receive, with nobody else at the channel.
func pair(count int) time.Duration {
	channel := make(chan int, 16)
	start := time.Now()
	for range count {
		channel <- 1
		<-channel
	}
	return time.Since(start)
}

// A round trip between two goroutines over two unbuffered channels.
func pingpong(count int) time.Duration {
	there, back := make(chan int), make(chan int)
	go func() {
		for range count {
			back <- <-there
		}
	}()
	start := time.Now()
	for range count {
		there <- 1
		<-back
	}
	return time.Since(start)
}

func main() {
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
