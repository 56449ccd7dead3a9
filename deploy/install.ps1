# Installs rotor: downloads the archive for Windows, verifies its checksum, and puts the command into a folder on your path.
#   powershell -ExecutionPolicy Bypass -File install.ps1 [-Folder PATH]
# ROTOR_RELEASE_URL may name another place for the archives.
param([string]$Folder = (Join-Path $env:LOCALAPPDATA 'Programs\rotor'))
$ErrorActionPreference = 'Stop'
# Windows PowerShell 5 asks servers for older protocols unless told otherwise.
[Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12

$version = '@VERSION@'
$releaseUrl = if ($env:ROTOR_RELEASE_URL) { $env:ROTOR_RELEASE_URL } else { '@ROTOR_RELEASE_URL@' }
# A 64-bit ARM machine runs the x86-64 command by emulation.
if (-not [Environment]::Is64BitOperatingSystem) { throw 'There is no archive for 32-bit Windows.' }
$archive = "rotor-$version-windows-amd64.zip"

$work = Join-Path ([IO.Path]::GetTempPath()) ([IO.Path]::GetRandomFileName())
New-Item -ItemType Directory -Path $work | Out-Null
try {
    $client = New-Object Net.WebClient
    $client.DownloadFile("$releaseUrl/$archive", (Join-Path $work $archive))
    $client.DownloadFile("$releaseUrl/SHA256SUMS", (Join-Path $work 'SHA256SUMS'))
    $line = Get-Content (Join-Path $work 'SHA256SUMS') | Where-Object { ($_ -split '\s+', 2)[1] -eq $archive }
    if (-not $line) { throw "SHA256SUMS does not list $archive" }
    $expected = ($line -split '\s+')[0]
    $found = (Get-FileHash -Algorithm SHA256 (Join-Path $work $archive)).Hash.ToLowerInvariant()
    if ($found -ne $expected) { throw "${archive}: expected SHA-256 $expected, found $found; nothing was installed" }

    Expand-Archive -Path (Join-Path $work $archive) -DestinationPath $work
    New-Item -ItemType Directory -Force -Path $Folder | Out-Null
    $target = Join-Path $Folder 'rotor.exe'
    # A command that is running cannot be overwritten, but it can be renamed.
    $old = "$target.old"
    Remove-Item -Force -ErrorAction SilentlyContinue $old
    if (Test-Path $target) { Move-Item -Force $target $old }
    Copy-Item (Join-Path $work "rotor-$version\rotor.exe") $target
    Remove-Item -Force -ErrorAction SilentlyContinue $old

    $path = [Environment]::GetEnvironmentVariable('Path', 'User')
    if (($path -split ';') -notcontains $Folder) {
        [Environment]::SetEnvironmentVariable('Path', (@($path, $Folder) | Where-Object { $_ }) -join ';', 'User')
        Write-Output "Added $Folder to your path: open a new terminal to run 'rotor'."
    }
    & $target --version
} finally {
    Remove-Item -Recurse -Force $work
}
