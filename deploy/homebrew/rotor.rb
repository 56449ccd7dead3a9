# Ternary language models on ordinary CPUs.
class Rotor < Formula
  desc "Opens and runs ternary (BitNet b1.58) language models"
  homepage "@ROTOR_RELEASE_URL@"
  version "@VERSION@"
  license any_of: ["MIT", "Apache-2.0"]

  on_macos do
    on_arm do
      url "@ROTOR_RELEASE_URL@/rotor-@VERSION@-macos-arm64.tar.gz"
      sha256 "@SHA256_MACOS_ARM64@"
    end
    on_intel do
      url "@ROTOR_RELEASE_URL@/rotor-@VERSION@-macos-amd64.tar.gz"
      sha256 "@SHA256_MACOS_AMD64@"
    end
  end

  on_linux do
    on_arm do
      url "@ROTOR_RELEASE_URL@/rotor-@VERSION@-linux-arm64.tar.gz"
      sha256 "@SHA256_LINUX_ARM64@"
    end
    on_intel do
      url "@ROTOR_RELEASE_URL@/rotor-@VERSION@-linux-amd64.tar.gz"
      sha256 "@SHA256_LINUX_AMD64@"
    end
  end

  def install
    bin.install "rotor"
    generate_completions_from_executable(bin/"rotor", "completions")
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/rotor --version")
    assert_match(/\S/, shell_output("#{bin}/rotor run --prompt 'Once upon a time' --max-tokens 8"))
  end
end
