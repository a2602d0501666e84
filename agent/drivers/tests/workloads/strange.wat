;; A command that imports what no host has.
(module
  (import "nowhere" "nothing" (func))
  (memory (export "memory") 1)
  (func (export "_start")))
