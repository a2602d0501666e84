;; Writes a line to its log, then sleeps for a minute, for ever. WASI preview 1.
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "hello from a box\n")
  ;; The text as one buffer: its place and its length.
  (data (i32.const 0) "\40\00\00\00\11\00\00\00")
  (func (export "_start")
    (loop $again
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      ;; A subscription to the monotonic clock: kind 0 at offset 8, clock 1 at 16, the time in ns at 24.
      (i32.store (i32.const 144) (i32.const 1))
      (i64.store (i32.const 152) (i64.const 60000000000))
      (drop (call $poll_oneoff (i32.const 128) (i32.const 192) (i32.const 1) (i32.const 12)))
      (br $again))))
