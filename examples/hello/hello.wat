;; A wasi:http component, written by hand: it answers every request with one text. Nothing but this file is
;; needed; Holdfast compiles text as it compiles binaries.
;;
;; What to change: the body (it ends at the \00), the status of every answer, the status of GET /healthz.
(component
  ;; What it needs of the host, as WIT's `wasi:io@0.2` and `wasi:http@0.2` say it: only what is used.
  (import "wasi:io/error@0.2.0" (instance $error
    (export "error" (type (sub resource)))))
  (alias export $error "error" (type $io-error))

  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $output-stream (sub resource)))
    (alias outer 1 $io-error (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (type $stream-error' (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $stream-error')))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $output-stream)) (param "contents" (list u8))
      (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output-stream))

  (import "wasi:http/types@0.2.0" (instance $http
    (alias outer 1 $output-stream (type $outer-stream))
    (export "output-stream" (type $output-stream (eq $outer-stream)))
    (export "fields" (type $fields (sub resource)))
    (export "incoming-request" (type $incoming-request (sub resource)))
    (export "outgoing-response" (type $outgoing-response (sub resource)))
    (export "outgoing-body" (type $outgoing-body (sub resource)))
    (export "response-outparam" (type $response-outparam (sub resource)))
    (type $dns' (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns (eq $dns')))
    (type $tls' (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $tls (eq $tls')))
    (type $size' (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $size (eq $size')))
    (type $error-code' (variant
      (case "DNS-timeout") (case "DNS-error" $dns) (case "destination-not-found")
      (case "destination-unavailable") (case "destination-IP-prohibited") (case "destination-IP-unroutable")
      (case "connection-refused") (case "connection-terminated") (case "connection-timeout")
      (case "connection-read-timeout") (case "connection-write-timeout") (case "connection-limit-reached")
      (case "TLS-protocol-error") (case "TLS-certificate-error") (case "TLS-alert-received" $tls)
      (case "HTTP-request-denied") (case "HTTP-request-length-required")
      (case "HTTP-request-body-size" (option u64)) (case "HTTP-request-method-invalid")
      (case "HTTP-request-URI-invalid") (case "HTTP-request-URI-too-long")
      (case "HTTP-request-header-section-size" (option u32)) (case "HTTP-request-header-size" (option $size))
      (case "HTTP-request-trailer-section-size" (option u32)) (case "HTTP-request-trailer-size" $size)
      (case "HTTP-response-incomplete") (case "HTTP-response-header-section-size" (option u32))
      (case "HTTP-response-header-size" $size) (case "HTTP-response-body-size" (option u64))
      (case "HTTP-response-trailer-section-size" (option u32)) (case "HTTP-response-trailer-size" $size)
      (case "HTTP-response-transfer-coding" (option string))
      (case "HTTP-response-content-coding" (option string)) (case "HTTP-response-timeout")
      (case "HTTP-upgrade-failed") (case "HTTP-protocol-error") (case "loop-detected")
      (case "configuration-error") (case "internal-error" (option string))))
    (export "error-code" (type $error-code (eq $error-code')))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[method]incoming-request.path-with-query" (func
      (param "self" (borrow $incoming-request)) (result (option string))))
    (export "[constructor]outgoing-response" (func
      (param "headers" (own $fields)) (result (own $outgoing-response))))
    (export "[method]outgoing-response.set-status-code" (func
      (param "self" (borrow $outgoing-response)) (param "status-code" u16) (result (result))))
    (export "[method]outgoing-response.body" (func
      (param "self" (borrow $outgoing-response)) (result (result (own $outgoing-body)))))
    (export "[method]outgoing-body.write" (func
      (param "self" (borrow $outgoing-body)) (result (result (own $output-stream)))))
    (export "[static]outgoing-body.finish" (func
      (param "this" (own $outgoing-body)) (param "trailers" (option (own $fields)))
      (result (result (error $error-code)))))
    (export "[static]response-outparam.set" (func
      (param "param" (own $response-outparam))
      (param "response" (result (own $outgoing-response) (error $error-code)))))))
  (alias export $http "incoming-request" (type $incoming-request))
  (alias export $http "response-outparam" (type $response-outparam))

  ;; The memory comes first, since the host's functions are handed to the program with it.
  (core module $Memory
    (memory (export "memory") 1)
    (global $next (mut i32) (i32.const 4096))
    ;; The host asks for room here for the path. One instance answers one request, so nothing is freed.
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32)
      (result i32)
      (local $at i32)
      (local.set $at (i32.and
        (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
      (global.set $next (i32.add (local.get $at) (local.get $size)))
      (if (i32.gt_u (global.get $next) (i32.const 65536)) (then unreachable))
      (local.get $at)))
  (core instance $memory (instantiate $Memory))
  (alias core export $memory "memory" (core memory $mem))
  (alias core export $memory "realloc" (core func $realloc))

  (core func $fields (canon lower (func $http "[constructor]fields")))
  (core func $path (canon lower (func $http "[method]incoming-request.path-with-query")
    (memory $mem) (realloc $realloc)))
  (core func $response (canon lower (func $http "[constructor]outgoing-response")))
  (core func $set-status (canon lower (func $http "[method]outgoing-response.set-status-code")))
  (core func $body (canon lower (func $http "[method]outgoing-response.body") (memory $mem)))
  (core func $stream (canon lower (func $http "[method]outgoing-body.write") (memory $mem)))
  (core func $finish (canon lower (func $http "[static]outgoing-body.finish")
    (memory $mem) (realloc $realloc)))
  (core func $answer (canon lower (func $http "[static]response-outparam.set") (memory $mem)))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory $mem)))
  (core func $close (canon resource.drop $output-stream))
  (core func $drop-request (canon resource.drop $incoming-request))

  (core module $Hello
    (import "" "memory" (memory 1))
    (import "" "fields" (func $fields (result i32)))
    (import "" "path" (func $path (param i32 i32)))
    (import "" "response" (func $response (param i32) (result i32)))
    (import "" "set-status" (func $set-status (param i32 i32) (result i32)))
    (import "" "body" (func $body (param i32 i32)))
    (import "" "stream" (func $stream (param i32 i32)))
    (import "" "finish" (func $finish (param i32 i32 i32 i32)))
    (import "" "answer" (func $answer (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (import "" "write" (func $write (param i32 i32 i32 i32)))
    (import "" "close" (func $close (param i32)))
    (import "" "drop-request" (func $drop-request (param i32)))

    ;; Results of the host's functions go to 0, the body lies at 1024.
    (global $status i32 (i32.const 200))
    (global $health i32 (i32.const 200))
    (data (i32.const 64) "/healthz")
    (data (i32.const 1024) "Hello from Holdfast\n\00")

    ;; Whether the request asks for /healthz: an option<string> of tag, address, length, and 8 equal bytes.
    (func $is-health (param $request i32) (result i32)
      (call $path (local.get $request) (i32.const 0))
      (if (i32.or (i32.eqz (i32.load8_u (i32.const 0))) (i32.ne (i32.load (i32.const 8)) (i32.const 8)))
        (then (return (i32.const 0))))
      (i64.eq (i64.load align=1 (i32.load (i32.const 4))) (i64.load (i32.const 64))))

    (func $length (result i32) (local $end i32)
      (local.set $end (i32.const 1024))
      (loop $more
        (if (i32.load8_u (local.get $end))
          (then (local.set $end (i32.add (local.get $end) (i32.const 1))) (br $more))))
      (i32.sub (local.get $end) (i32.const 1024)))

    (func (export "handle") (param $request i32) (param $out i32)
      (local $response i32) (local $body i32) (local $stream i32)
      (local.set $response (call $response (call $fields)))
      (drop (call $set-status (local.get $response)
        (if (result i32) (call $is-health (local.get $request))
          (then (global.get $health)) (else (global.get $status)))))
      (call $body (local.get $response) (i32.const 0))
      (local.set $body (i32.load (i32.const 4)))
      ;; The answer's head goes out first (its tag 0 is "ok"), then its body.
      (call $answer (local.get $out) (i32.const 0) (local.get $response)
        (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
      (call $stream (local.get $body) (i32.const 0))
      (local.set $stream (i32.load (i32.const 4)))
      (call $write (local.get $stream) (i32.const 1024) (call $length) (i32.const 0))
      (call $close (local.get $stream))
      (call $finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 0))
      (call $drop-request (local.get $request))))

  (core instance $hello (instantiate $Hello (with "" (instance
    (export "memory" (memory $mem))
    (export "fields" (func $fields))
    (export "path" (func $path))
    (export "response" (func $response))
    (export "set-status" (func $set-status))
    (export "body" (func $body))
    (export "stream" (func $stream))
    (export "finish" (func $finish))
    (export "answer" (func $answer))
    (export "write" (func $write))
    (export "close" (func $close))
    (export "drop-request" (func $drop-request))))))

  (func $handle (param "request" (own $incoming-request)) (param "response-out" (own $response-outparam))
    (canon lift (core func $hello "handle")))
  ;; An exported interface may name only types that it carries or that come from an import.
  (component $Handler
    (import "incoming-request" (type $incoming-request (sub resource)))
    (import "response-outparam" (type $response-outparam (sub resource)))
    (import "handle" (func $handle
      (param "request" (own $incoming-request)) (param "response-out" (own $response-outparam))))
    (export $out-request "incoming-request" (type $incoming-request))
    (export $out-outparam "response-outparam" (type $response-outparam))
    (export "handle" (func $handle) (func
      (param "request" (own $out-request)) (param "response-out" (own $out-outparam)))))
  (instance $handler (instantiate $Handler
    (with "incoming-request" (type $incoming-request))
    (with "response-outparam" (type $response-outparam))
    (with "handle" (func $handle))))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
