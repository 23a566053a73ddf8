// The one program of the test image. Without arguments it waits to be ended, which is all that a sandbox of a pod has to do;
// `answer PORT` sends every datagram back with the name of its host in front; `ask HOST:PORT` sends one until it is answered, and prints
// the answer.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	datagramMax = 1500
	patience    = 2 * time.Second
)

func main() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-ended
		os.Exit(0)
	}()
	switch {
	case len(os.Args) == 3 && os.Args[1] == "answer":
		fail(answer(os.Args[2]))
	case len(os.Args) == 3 && os.Args[1] == "ask":
		ask(os.Args[2])
	default:
		select {}
	}
}

func answer(port string) error {
	socket, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	name, _ := os.Hostname()
	buffer := make([]byte, datagramMax)
	for {
		length, from, err := socket.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if _, err := socket.WriteTo([]byte(name+" heard "+string(buffer[:length])), from); err != nil {
			return err
		}
	}
}

func ask(address string) {
	for {
		said, err := askOnce(address)
		if err == nil {
			fmt.Println(said)
			return
		}
		fmt.Fprintln(os.Stderr, err)
		time.Sleep(patience / 4)
	}
}

func askOnce(address string) (string, error) {
	socket, err := net.DialTimeout("udp", address, patience)
	if err != nil {
		return "", err
	}
	defer socket.Close()
	if err := socket.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := socket.Write([]byte("hello")); err != nil {
		return "", err
	}
	buffer := make([]byte, datagramMax)
	length, err := socket.Read(buffer)
	return string(buffer[:length]), err
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
