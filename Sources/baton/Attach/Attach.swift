import ArgumentParser
import BatonCheck
import BatonClient
import BatonGateway
import BatonProtocol
import BatonSession
import BatonUpstream
import Dispatch
import Foundation
import NIOConcurrencyHelpers

struct Attach: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show a session as it grows, over lost connections and gateways.",
    discussion: """
      The text of the answers goes to standard output, everything else to standard error. After a lost connection it
      goes on at the very next token, at the next --url in turn. If the session turns out not to be what was shown
      (it was trimmed, deleted or restored), a line that begins with "--- reset" on standard error says from where on the
      printed text no longer holds, and the text after that place is printed anew. With --json each frame is printed as it
      came, one a line, resets among them.

      With --record everything that comes is also appended to a file, for baton check; the texts are in it. If the file can't
      be written at the start, nothing else is done; if it can't be written any more, that is said once, the recording ends
      there, and the command goes on.

      It exits with 0 when --until end or --response is done, on an interrupt, and when nobody reads its output any more; 69 if
      no gateway was reached within --connect-timeout (after the first success it tries for ever); 74 if its output can't
      or, at the start, its recording can't be written; 64, 69, 70 or 78 when a gateway refuses for good.
      """)

  @Argument(help: "The session's name.")
  var session: String

  @Option(help: "A gateway, http://HOST:PORT; may be repeated. The default is http://127.0.0.1:8080.")
  var url: [String] = []

  @Option(help: "Go on after this offset; 0 is the start, $ only what comes from now on.")
  var offset: String?

  @Option(help: "Begin with the newest N entries, 1 to 10000.")
  var last: Int?

  @Option(help: "Show one response from its start to its end, and nothing else.")
  var response: String?

  @Option(help: "Which deltas may be joined: auto, off, or milliseconds, 1 to 1000.")
  var rollup: String?

  @Option(help: "end: exit once everything was shown and no response is open.")
  var until: Until?

  @Option(help: "A name for this device.")
  var device: String?

  @Option(help: "A token with the scope read.")
  var token: String?

  @Flag(help: "Print each frame as it comes, one a line.")
  var json = false

  @Option(help: "How long to look for a gateway at the start: 500ms, 30s, 5m; 0s is for ever.")
  var connectTimeout: Wait = Wait(seconds: 30)

  @Option(help: "A PEM file with the certificates to trust, in place of the system's.")
  var caFile: String?

  @Option(help: "Append what comes to this file, texts included, for baton check.")
  var record: String?

  enum Until: String, ExpressibleByArgument { case end }

  func validate() throws {
    if [offset != nil, last != nil, response != nil].count(where: { $0 }) > 1 {
      throw ValidationError("Give one of --offset, --last and --response.")
    }
    if let offset, offset != "$", offset != "live", Offset(offset) == nil {
      throw ValidationError("The offset '\(offset)' must be 0, $, <ms>-<seq> or <ms>-<seq>.<check>.")
    }
    if let last, !(1...10_000).contains(last) { throw ValidationError("--last must be 1 to 10000.") }
    if let response, !Shape.name(response.utf8, upTo: 128) {
      throw ValidationError("The response '\(response)' must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -")
    }
    if let device, !Shape.name(device.utf8, upTo: 64) {
      throw ValidationError("The device '\(device)' must be 1 to 64 characters of A-Z a-z 0-9 . _ ~ : @ -")
    }
    if let rollup, rollup != "auto", rollup != "off", !(1...1000).contains(Int(rollup) ?? 0) {
      throw ValidationError("--rollup must be auto, off, or milliseconds from 1 to 1000.")
    }
  }

  func run() async throws {
    let attachment: SessionAttachment
    let recorder: AttachRecorder?
    do {
      let token = try Secret.header(token, from: "--token")
      recorder = try record.map { (path) throws(CannotRecord) in try AttachRecorder(path, session, asked) }
      attachment = try SessionAttachment(to: session, at: urls, options: options(token))
    } catch let failure as PublishFailure {
      say("attach", "\(failure)")
      throw ExitCode(failure.status.rawValue)
    } catch let invalid as SessionAttachment.Invalid {
      throw ValidationError(UpstreamAddress.masked("\(invalid)"))
    } catch let cannot as CannotRecord {
      say("attach", "\(cannot)")
      throw ExitCode(ExitStatus.output.rawValue)
    }
    let isClosed = NIOLockedValueBox(false)
    let close = { @Sendable in
      isClosed.withLockedValue { $0 = true }
      attachment.close()
    }
    let signals = Signals(close)
    defer { withExtendedLifetime(signals) {} }
    var printer = AttachPrinter(json: json)
    let patience = Patience(connectTimeout.seconds, givenUp: close)
    do {
      for try await event in attachment {
        recorder?.record(event)
        if case .frame(let frame) = event, case .attached = frame.kind { patience.reached() }
        try printer.show(event)
      }
    } catch let failure as Descriptor.Failure {
      throw ExitCode(Baton.unwritten(failure, by: "baton attach"))
    } catch let rejection as SessionAttachment.Rejection {
      recorder?.ended("rejected")
      printer.finish()
      printer.say("\(rejection)")
      throw ExitCode(ExitStatus(rejection).rawValue)
    }
    recorder?.ended(isClosed.withLockedValue { $0 } ? "closed" : "finished")
    printer.finish()
    if patience.isOver {
      printer.say("no gateway was reached at \(urls.joined(separator: ", "))\(printer.trouble.map { ": \($0)" } ?? "")")
      throw ExitCode(ExitStatus.unavailable.rawValue)
    }
  }

  private var urls: [String] { url.isEmpty ? ["http://127.0.0.1:8080"] : url }

  private var asked: RecordingHeader.Asked {
    let start: RecordingHeader.Asked.Start =
      if let last {
        .newest(last)
      } else if let response {
        .response(response)
      } else if let offset {
        Offset(offset).map { .after($0) } ?? .end
      } else {
        .after(.zero)
      }
    return RecordingHeader.Asked(device: device, start: start, rollup: rollup, until: until?.rawValue)
  }

  private func options(_ token: String?) -> SessionAttachment.Options {
    var options = SessionAttachment.Options()
    if let last {
      options.start = .newest(last)
    } else if let response {
      options.start = .response(response)
    } else if let offset {
      options.start = Offset(offset).map { .after($0) } ?? .end
    }
    options.rollup = rollup.map {
      switch $0 {
      case "auto": .auto
      case "off": .off
      default: .window(.milliseconds(Int($0) ?? 0))
      }
    }
    options.untilEnd = until == .end
    options.device = device
    options.token = token
    options.trustedCertificates = caFile
    return options
  }
}
