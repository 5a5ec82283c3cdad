/// Of the process, its page and its libraries (https://semver.org); the protocol has a number of its own.
package let batonVersion = "0.9.0"
