/// What became of a response; the raw values are the script's and PROTOCOL 3's.
package enum ResponseState: String, Sendable {
  case open, end, error, cancelled
}
