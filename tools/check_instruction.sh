#!/usr/bin/env bash
# Asserts that a compiled kernel uses the instruction it is written for: a right answer does not show that.
# Usage: tools/check_instruction.sh BINARY MODULE INSTRUCTION [OBJDUMP]
set -euo pipefail
binary=$1 module=$2 instruction=$3 objdump=${4:-objdump}
# A mangled name has a module's length before it, in either of Rust's schemes.
functions=$("$objdump" --disassemble --no-show-raw-insn "$binary" | awk -v module="${#module}$module" -v wanted="$instruction" '
    /^[0-9a-f]+ <.*>:$/ { inside = index($2, module) > 0; name = $2 }
    inside { for (i = 2; i <= NF && i <= 3; i++) if ($i == wanted) found[name] = 1 }
    END { for (name in found) count++; print count + 0 }')
if [ "$functions" -eq 0 ]; then
    echo "$module: expected $instruction in its functions, found none in $binary" >&2
    exit 1
fi
echo "$module: $instruction in $functions functions"
