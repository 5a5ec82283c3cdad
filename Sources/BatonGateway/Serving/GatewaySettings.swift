/// The options of `baton serve`.
package enum GatewaySettings {
  package static let table: [Setting] = [
    Setting("config", placeholder: "PATH", "A JSON file with any of these options as keys"),
    Setting("print-config", .flag, "Print every option with its value and source, and exit"),
    Setting(
      "check", .flag, "Try every command, key and channel that a gateway needs in Redis, name what is missing, and exit"
    ),

    Setting(
      "listen", standard: "127.0.0.1:8080", placeholder: "HOST:PORT",
      "Where to listen, or unix:PATH for a proxy on this machine; port 0 picks a free one"),
    Setting(
      "redis", standard: "redis://127.0.0.1:6379/0", placeholder: "URL", isSecret: true,
      "redis://, rediss:// or unix:// URL of Redis 6.2 or newer, or Valkey; "
        + "redis+sentinel://A,B,C/MASTER/DB or redis+cluster://A,B,C"),
    Setting("node", placeholder: "NAME", "This node's name in frames, logs and metrics; default: host name and port"),
    Setting("key-prefix", standard: "baton:", placeholder: "TEXT", "What all keys in Redis begin with"),
    Setting(
      "wakeup", .choice(["auto", "tracking", "poll"]), standard: "auto",
      "How the node learns of new entries: Redis' client tracking, polling, or whichever works (auto)"),
    Setting("public-url", placeholder: "URL", "The URL under which devices reach the gateways; its origin is accepted"),
    Setting(
      "allowed-origins", .list, placeholder: "ORIGIN,…",
      "Exactly the origins (scheme, host, port; * for one label) whose pages may use the gateway; default: local ones and --public-url"
    ),

    Setting(
      "allowed-hosts", .list, placeholder: "HOST,…",
      "The only names (perhaps with a port; * for one label, or all) by which the gateway is reached, beside local ones and that of --public-url; default: none where no token is asked for and only this machine is let in, else all"
    ),

    Setting(
      "trusted-proxies", .list, placeholder: "CIDR,…",
      "Addresses and networks of proxies that are believed when they say whose request it is (X-Forwarded-For, or Forwarded): limits by address are the client's then"
    ),

    Setting(
      "proxy-protocol", .flag,
      "Every connection of --trusted-proxies begins with a PROXY protocol header (version 1 or 2), before TLS: its client is whose the connection is; one without is closed"
    ),

    Setting(
      "auth-secret-file", placeholder: "PATH",
      "The key of devices' tokens, at least 32 bytes, in place of BATON_AUTH_SECRET; without it, --auth-jwks, --auth-jwks-url and --auth-url nobody is asked who they are"
    ),
    Setting(
      "auth-algorithm", .choice(["HS256", "HS384", "HS512"]), standard: "HS256",
      "What --auth-secret-file is the key for"),
    Setting(
      "auth-jwks", placeholder: "PATH",
      "A JWK set with more keys, told apart by kid: RS256, PS256, ES256, ES384, EdDSA, HS256, HS384, HS512; SIGHUP reads both files again"
    ),
    Setting(
      "auth-jwks-url", placeholder: "URL",
      "Where a JWK set is fetched, beside the files: at the start, after 10 min, and for an unknown kid at most once in 30 s; kept while that fails"
    ),
    Setting(
      "auth-url", placeholder: "URL",
      "Your app, asked by GET with the request's cookies and headers who sends it, where no token is checked here: 2xx with the claims of a token as JSON, 401 or 403"
    ),
    Setting(
      "auth-headers", .list, placeholder: "NAME,…",
      "The headers that --auth-url is asked with, and for which its answer is remembered; default: cookie,authorization,origin,user-agent"
    ),
    Setting("auth-timeout", .duration, standard: "5s", "How long --auth-url and --auth-jwks-url may take; then 503"),
    Setting(
      "auth-cache-bytes", .size, standard: "16MiB", "What --auth-url said, kept until its exp; the oldest go first"),
    Setting("auth-issuer", placeholder: "TEXT", "What the claim iss of a token must be"),
    Setting("auth-audience", placeholder: "TEXT", "What must be in the claim aud of a token"),
    Setting(
      "tenant-claim", placeholder: "NAME",
      "The claim that names a token's tenant, and must be there: sessions of the same name of two tenants are two, and nobody names another's; default: there are no tenants"
    ),
    Setting(
      "metrics-secret-file", placeholder: "PATH",
      "What /metrics is read with, as Authorization: Bearer, at least 16 bytes; without it whoever asks directly from a private address may"
    ),
    Setting("insecure-no-auth", .flag, "Listen beyond loopback although nobody is asked for a token"),
    Setting(
      "tls-cert", placeholder: "PATH",
      "PEM certificate chain; with --tls-key the gateway speaks TLS, 1.2 or newer; SIGHUP reads both again"
    ),
    Setting("tls-key", placeholder: "PATH", "PEM private key of --tls-cert"),
    Setting(
      "tls-client-ca", placeholder: "PATH",
      "PEM certificates of the authorities that sign clients' own: who connects proves that it has one, before any request; SIGHUP reads it again"
    ),
    Setting(
      "tls-client-auth", .choice(["require", "request"]), standard: "require",
      "Whether a client of --tls-client-ca may come without a certificate (request); with a wrong or expired one none may"
    ),

    Setting(
      "openai", placeholder: "URL", isSecret: true,
      "An OpenAI-compatible model server: the gateway serves /v1/responses, /v1/chat/completions and the rest of /v1 in front of it, and answers outlive their connections"
    ),
    Setting(
      "openai-key-file", placeholder: "PATH",
      "The model server's key, in place of the one in OPENAI_API_KEY; a caller's own is never passed on"),
    Setting(
      "openai-background", .flag,
      "Ask for Responses with background and store, so that another node goes on with an answer whose node dies; for a model server that has both"
    ),
    Setting(
      "ai-sdk", placeholder: "URL", isSecret: true,
      "An app's own chat route that answers the AI SDK's useChat: the gateway serves /v1/ai-sdk in front of it, and messages outlive their connections"
    ),
    Setting(
      "ai-sdk-grace", .duration, standard: "30s",
      "For how long a message that has ended is still given to a page that asks what there is to resume"),
    Setting(
      "relay", .list, placeholder: "PATH=URL", isSecret: true,
      "Answers a POST to PATH by what a backend at URL answers, as an event stream of any kind (AG-UI, LangGraph, your own), which outlives its connection; several are given one by one, or behind commas"
    ),
    Setting(
      "max-relays", .count(1...1_000_000), standard: "1000",
      "Answers of a model server, or a backend, that are open at the same time; more are refused with 503"),
    Setting(
      "relay-idle-timeout", .duration, standard: "2m",
      "How long a model server, or a backend, may be silent within an answer; 0s is as long as it likes"),

    Setting(
      "roles", .list, standard: "attach,relay", placeholder: "ROLE,…",
      "What this node is for: devices attach, or model servers and backends are asked; the other is refused with 421"),
    Setting(
      "on-busy", .choice(BusyRule.Policy.allCases.map(\.rawValue)), standard: "parallel",
      "What a question does while its session answers another one: wait its turn, be refused with 409, cancel that answer, or be asked beside it"
    ),
    Setting(
      "max-queued", .count(1...1000), standard: "16",
      "Questions of one session that are asked, or wait for their turn; more are refused with 429"),
    Setting(
      "queue-timeout", .duration, standard: "5m", "How long a question waits for its turn; then it is refused with 409"),

    Setting(
      "webhook", .list, placeholder: "URL,…", isSecret: true,
      "Addresses of your app that are told by POST when an answer ends, and when somebody asks and nobody answers"),
    Setting(
      "webhook-secret-file", placeholder: "PATH",
      "What webhooks are signed with, in place of BATON_WEBHOOK_SECRET: whsec_ and base64, several for a change of secrets"
    ),
    Setting(
      "webhook-events", .list, standard: "end,error,cancelled,input", placeholder: "EVENT,…",
      "What they are told of"),
    Setting("webhook-timeout", .duration, standard: "15s", "How long the answer to a webhook may take"),
    Setting(
      "webhook-retry-time", .duration, standard: "24h",
      "How old an event may be that is tried again; then it is given up"
    ),
    Setting(
      "webhook-ca-file", placeholder: "PATH",
      "PEM certificates that are trusted for --webhook, in place of the system's (or SSL_CERT_FILE)"),

    Setting("drain-delay", .duration, standard: "5s", "After SIGTERM: how long the listener stays open"),
    Setting(
      "drain-time", .duration, standard: "30s",
      "Then: the time over which devices are sent away, and which requests have to finish"),
    Setting("log-format", .choice(["text", "json"]), standard: "text", "How logs are written, on standard error"),
    Setting(
      "log-level", .choice(["trace", "debug", "info", "notice", "warning", "error", "critical"]), standard: "info",
      "The least severe level that is logged"),

    Setting(
      "audit-log", placeholder: "PATH",
      "A file, pipe or standard output (-) for one line of JSON about each refusal and each administrative act; SIGHUP opens it again"
    ),
    Setting(
      "max-entry-bytes", .size, standard: "256KiB", "Entries larger than this are announced as skipped, not sent"),
    Setting("window-bytes", .size, standard: "256KiB", "Newest entries kept in memory for one session"),
    Setting(
      "node-window-bytes", .size, standard: "256MiB",
      "Newest entries kept in memory for all sessions of the node together"),
    Setting(
      "catch-up-bytes", .size, standard: "32MiB",
      "Pages of history kept in memory for all devices together, until each is written"),
    Setting(
      "gather-bytes", .size, standard: "64MiB",
      "What is put together in memory for all requests together, beyond 16 KiB each: bodies, lines and events that are not whole yet, answers that are told at once; what finds no room is refused with 503, a stream is ended"
    ),
    Setting(
      "max-body-bytes", .size, standard: "1MiB",
      "The largest JSON body of a POST, and the longest line of an NDJSON upload"),
    Setting("max-upload-bytes", .size, standard: "256MiB", "The largest NDJSON upload; a larger one is ended with 413"),
    Setting(
      "max-connections", .count(1...10_000_000),
      "Open connections; with more none is accepted until one ends; default: what the process may open, less 64"),
    Setting(
      "max-connections-per-address", .count(1...10_000_000),
      "Open connections of one address; more are closed at once; default: 1000 for public addresses"),
    Setting(
      "max-handshakes-per-address", .count(1...1_000_000),
      "Attaches of one address a second, those of 10 s at once; more are refused with 429; default: 50 for public addresses"
    ),
    Setting(
      "max-auth-failures-per-address", .count(1...1_000_000),
      "Invalid tokens of one address a minute; after more its tokens are refused with 429; default: 60 for public addresses"
    ),
    Setting(
      "max-auth-asks", .count(1...1_000_000), standard: "1000",
      "Different requests that --auth-url is asked about at a time, over 32 connections; more are refused with 503"),
    Setting(
      "max-requests", .count(1...10_000_000), standard: "10000",
      "Requests of sessions that are worked on, uploads among them; more are refused with 503"),
    Setting("max-devices", .count(1...10_000_000), standard: "100000", "Attached devices; more are refused with 503"),
    Setting(
      "max-devices-per-session", .count(1...10_000_000), standard: "20000",
      "Devices of one session on this node; more are refused with 429"),
    Setting(
      "max-devices-per-subject", .count(1...10_000_000), standard: "1000",
      "Devices of one token's subject on this node; more are refused with 429"),
    Setting(
      "max-devices-per-tenant", .count(1...10_000_000),
      "Devices of one tenant on this node; more are refused with 429; default: as many as come"),
    Setting(
      "max-sessions-per-tenant", .count(1...10_000_000),
      "Sessions of one tenant that gateways have written to within --retention, on all nodes together; what would begin one more is refused with 429; default: as many as come"
    ),
    Setting(
      "max-entries-per-tenant", .count(1...10_000_000),
      "Entries that one tenant appends on this node in a second, those of 10 s at once; more are refused with 429, uploads held back; default: as many as come"
    ),
    Setting(
      "max-bytes-per-tenant", .size,
      "Their names and values in a second, those of 10 s at once; likewise; default: as many as come"),
    Setting(
      "max-messages-per-second", .count(1...1_000_000), standard: "50",
      "What one device sends by input, cancel, auth and the like, that of 10 s at once; more is answered with rate_limited"
    ),
    Setting(
      "max-pings-per-second", .count(1...1_000_000), standard: "50",
      "Pings of one device, those of 10 s at once; more close with 1008"),
    Setting(
      "max-frames-per-second", .count(1...1_000_000), standard: "1000",
      "WebSocket frames of one device, those of 10 s at once; more close with 1008"),
    Setting("max-stall", .duration, standard: "60s", "A device that takes no bytes for this long is disconnected"),
    Setting(
      "retry", .duration, standard: "5s",
      "When browsers' event streams reconnect: after longer than a restart takes, or 500ms where other nodes answer"),
    Setting("ping-interval", .duration, standard: "25s", "How often a device is pinged"),
    Setting(
      "sweep", .duration, standard: "30s", "How often every session with devices is read although no notice came"),
    Setting("poll-interval", .duration, standard: "20ms", "How often hot sessions are read where tracking is not used"),
    Setting(
      "header-timeout", .duration, standard: "10s", "How long a new connection may take to send its first request"),
    Setting(
      "idle-timeout", .duration, standard: "60s",
      "How long a connection stays open between requests, and a JSON body may be silent"),
    Setting("max-body-time", .duration, standard: "5m", "How long a JSON body may take; after it 408"),
    Setting(
      "min-body-rate", .size, standard: "256",
      "Bytes a second that a JSON body brings at the least, once it has had --header-timeout; below it 408"),
    Setting("max-upload-time", .duration, standard: "24h", "How long an NDJSON upload may take; after it 408"),
    Setting(
      "upload-timeout", .duration, standard: "30m",
      "How long an NDJSON upload may be silent; a blank line keeps it alive"),
    Setting("exit-with-stdin", .flag, "Exit when standard input ends: for a parent process that may be killed"),
    Setting("backlog", .count(1...65_535), standard: "1024", "Connections that wait to be accepted"),
    Setting("threads", .count(1...1024), placeholder: "N", "Event loops; default: one a core"),
    Setting("retention", .duration, standard: "24h", "How long Redis keeps a session that an HTTP append created"),
    Setting(
      "max-length", .count(1...100_000_000), standard: "100000",
      "Entries that Redis keeps of a session appended to over HTTP"),
  ]
}
