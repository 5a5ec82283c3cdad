// swift-tools-version: 6.2

import PackageDescription

/// What the libraries do without: an app that wants no more than those names no traits, and gets no more packages.
let gateway: TargetDependencyCondition? = .when(traits: ["Gateway"])

let nio: Target.Dependency = .product(name: "NIOCore", package: "swift-nio")
let nioPosix: Target.Dependency = .product(name: "NIOPosix", package: "swift-nio")
let nioHTTP1: Target.Dependency = .product(name: "NIOHTTP1", package: "swift-nio")
let nioWebSocket: Target.Dependency = .product(name: "NIOWebSocket", package: "swift-nio")
let atomics: Target.Dependency = .product(name: "Atomics", package: "swift-atomics")
let nioEmbedded: Target.Dependency = .product(name: "NIOEmbedded", package: "swift-nio")
let nioSSL: Target.Dependency = .product(name: "NIOSSL", package: "swift-nio-ssl")
let collections: Target.Dependency = .product(name: "Collections", package: "swift-collections")
let nioConcurrency: Target.Dependency = .product(name: "NIOConcurrencyHelpers", package: "swift-nio")
let nioHTTPTypes: Target.Dependency = .product(name: "NIOHTTPTypes", package: "swift-nio-extras", condition: gateway)
let nioHTTPTypesHTTP1: Target.Dependency = .product(
  name: "NIOHTTPTypesHTTP1", package: "swift-nio-extras", condition: gateway)
let httpTypes: Target.Dependency = .product(name: "HTTPTypes", package: "swift-http-types", condition: gateway)
let hummingbird: Target.Dependency = .product(name: "HummingbirdCore", package: "hummingbird", condition: gateway)
let deque: Target.Dependency = .product(name: "DequeModule", package: "swift-collections")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let metrics: Target.Dependency = .product(name: "Metrics", package: "swift-metrics", condition: gateway)
let lifecycle: Target.Dependency = .product(
  name: "ServiceLifecycle", package: "swift-service-lifecycle", condition: gateway)
let unixSignals: Target.Dependency = .product(
  name: "UnixSignals", package: "swift-service-lifecycle", condition: gateway)
let arguments: Target.Dependency = .product(
  name: "ArgumentParser", package: "swift-argument-parser", condition: gateway)
let jwt: Target.Dependency = .product(name: "JWTKit", package: "jwt-kit", condition: gateway)
let crypto: Target.Dependency = .product(name: "Crypto", package: "swift-crypto", condition: gateway)
let histogram: Target.Dependency = .product(name: "Histogram", package: "hdrhistogram-swift", condition: gateway)
let httpClient: Target.Dependency = .product(name: "AsyncHTTPClient", package: "async-http-client", condition: gateway)

let package = Package(
  name: "baton",
  platforms: [.macOS(.v14), .iOS(.v17)],
  products: [
    .executable(name: "baton", targets: ["baton"]),
    .library(name: "BatonProducer", targets: ["BatonProducer"]),
    .library(name: "BatonClient", targets: ["BatonClient"]),
  ],
  traits: [
    .trait(name: "Gateway", description: "The program `baton`; the libraries need no trait"),
    .default(enabledTraits: ["Gateway"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-nio.git", from: "2.101.2"),
    .package(url: "https://github.com/apple/swift-nio-ssl.git", from: "2.37.6"),
    .package(url: "https://github.com/apple/swift-nio-extras.git", from: "1.34.1"),
    .package(url: "https://github.com/apple/swift-http-types.git", from: "1.0.0"),
    .package(url: "https://github.com/apple/swift-collections.git", from: "1.6.0"),
    .package(url: "https://github.com/apple/swift-log.git", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-metrics.git", from: "2.13.0"),
    .package(url: "https://github.com/apple/swift-atomics.git", from: "1.3.0"),
    .package(url: "https://github.com/apple/swift-argument-parser.git", from: "1.8.2"),
    .package(url: "https://github.com/swift-server/swift-service-lifecycle.git", from: "2.13.0"),
    .package(url: "https://github.com/hummingbird-project/hummingbird.git", from: "2.28.1"),
    .package(url: "https://github.com/swift-server/async-http-client.git", from: "1.37.0"),
    .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift.git", from: "0.2.0"),
    .package(url: "https://github.com/vapor/jwt-kit.git", from: "5.7.1"),
    .package(url: "https://github.com/apple/swift-crypto.git", from: "4.5.2"),
  ],
  targets: [
    // run
    .executableTarget(
      name: "baton",
      dependencies: [
        "BatonGateway", "BatonProducer", "BatonClient", "BatonCheck", "BatonStore", "BatonRedis", "BatonUpstream",
        "BatonRelay",
        "BatonSession", "BatonProtocol", "CBatonEpoll", nio, nioPosix, nioHTTP1,
        .product(name: "NIOFoundationCompat", package: "swift-nio"),
        nioConcurrency, httpTypes, hummingbird, arguments, logging, unixSignals, httpClient, histogram,
      ]),

    // products
    .target(
      name: "BatonGateway",
      dependencies: [
        "BatonStore", "BatonRedis", "BatonWebSocket", "BatonSession", "BatonProtocol", "BatonRelay", "BatonUpstream",
        "BatonProducer", "CBatonZlib",
        nio, nioPosix, nioConcurrency, nioHTTP1, nioHTTPTypes, nioHTTPTypesHTTP1, nioSSL, httpTypes,
        hummingbird, atomics, lifecycle, unixSignals, logging, metrics, jwt, crypto, httpClient, deque,
      ],
      resources: [.embedInCode("Web")]),
    .target(
      name: "BatonProducer",
      dependencies: [
        "BatonStore", "BatonRedis", "BatonSession", "BatonProtocol", nio, nioPosix, nioConcurrency, deque, logging,
      ]),
    .target(
      name: "BatonClient",
      dependencies: ["BatonWebSocket", "BatonProtocol", nio, nioPosix, nioConcurrency, nioHTTP1, nioSSL, logging]),

    // the judge
    .target(name: "BatonCheck", dependencies: ["BatonProtocol", "CBatonZlib", nio]),

    // store
    .target(
      name: "BatonStore",
      dependencies: ["BatonRedis", "BatonSession", "BatonProtocol", nio, nioConcurrency, atomics],
      resources: [.embedInCode("Append/append.lua")]),

    // protocols
    .target(name: "BatonRedis", dependencies: ["CBatonHiredis", nio, nioPosix, nioSSL]),
    .target(name: "BatonWebSocket", dependencies: [nio, nioHTTP1, nioWebSocket]),

    .target(name: "BatonUpstream", dependencies: ["BatonProtocol", nio]),
    .target(
      name: "BatonRelay",
      dependencies: [
        "BatonUpstream", "BatonProducer", "BatonProtocol", nio, nioPosix, nioConcurrency, nioHTTP1, nioSSL, logging,
        httpClient,
      ]),

    // core
    .target(
      name: "BatonSession",
      dependencies: [
        "BatonProtocol", "CBatonZlib", nio, nioConcurrency, atomics, collections,
      ]),
    .target(name: "BatonProtocol", dependencies: [nio]),

    // outside
    .target(name: "CBatonHiredis", linkerSettings: [.linkedLibrary("hiredis")]),
    .systemLibrary(name: "CBatonEpoll"),
    .systemLibrary(name: "CBatonZlib", providers: [.apt(["zlib1g-dev"])]),

    // tests
    .executableTarget(
      name: "websocket-echo", dependencies: ["BatonWebSocket", nio, nioPosix, nioHTTP1], path: "Tests/WebSocketEcho"),
    .executableTarget(
      name: "count",
      dependencies: ["BatonStore", "BatonSession", "BatonRedis", "BatonWebSocket", "BatonProtocol", nio],
      path: "Tests/Count"),
    .systemLibrary(name: "CLibFuzzer", path: "Tests/Fuzz/CLibFuzzer"),
    .executableTarget(name: "fuzz", dependencies: ["FuzzTargets", "CLibFuzzer"], path: "Tests/Fuzz/Run"),
    .target(
      name: "FuzzTargets",
      dependencies: [
        "BatonGateway", "BatonClient", "BatonStore", "BatonRedis", "BatonWebSocket", "BatonSession", "BatonProtocol",
        "BatonRelay", "BatonUpstream", "TestSupport", nio, nioHTTP1, nioEmbedded,
      ],
      path: "Tests/Fuzz/Targets"),
    .target(name: "RedisServer", path: "Tests/RedisServer"),
    .target(name: "TestSupport", path: "Tests/TestSupport"),
    .testTarget(
      name: "BatonRedisTests",
      dependencies: [
        "BatonRedis", "CBatonHiredis", "RedisServer", "TestSupport", nio, nioPosix, nioConcurrency, nioEmbedded,
      ]),
    .testTarget(
      name: "BatonWebSocketTests",
      dependencies: ["BatonWebSocket", "TestSupport", nio, nioHTTP1, nioWebSocket, nioEmbedded]),
    .testTarget(
      name: "BatonSessionTests", dependencies: ["BatonSession", "BatonStore", "BatonProtocol", nio]),
    .testTarget(
      name: "BatonStoreTests",
      dependencies: [
        "BatonStore", "BatonSession", "BatonProtocol", "BatonProducer", "BatonRedis", "RedisServer", "TestSupport", nio,
        nioPosix, nioEmbedded, collections,
      ]),
    .testTarget(name: "FuzzTests", dependencies: ["FuzzTargets"], path: "Tests/Fuzz/Tests"),
    .testTarget(name: "BatonRelayTests", dependencies: ["BatonRelay", "BatonProtocol", "BatonUpstream", nio]),
    .testTarget(name: "BatonUpstreamTests", dependencies: ["BatonUpstream", nio]),
    .testTarget(name: "BatonCheckTests", dependencies: ["BatonCheck", "BatonProtocol", nio]),
    .testTarget(
      name: "BatonClientTests",
      dependencies: ["BatonClient", "BatonWebSocket", "BatonProtocol", "TestSupport", nio, nioPosix, nioHTTP1]),
    .testTarget(
      name: "BatonProducerTests",
      dependencies: [
        "BatonProducer", "BatonStore", "BatonSession", "BatonProtocol", "BatonRedis", "RedisServer", "TestSupport", nio,
        nioPosix,
      ]),
    .testTarget(
      name: "BatonGatewayTests",
      dependencies: [
        "BatonGateway", "BatonStore", "BatonSession", "BatonProtocol", "BatonWebSocket", "TestSupport", nio, nioPosix,
        nioConcurrency,
        nioHTTP1, lifecycle, logging, metrics,
      ]),
  ],
  swiftLanguageModes: [.v6]
)
