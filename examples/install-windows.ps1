<#
.SYNOPSIS
Runs llmauth at boot: a scheduled task of Windows, without any further program.

.DESCRIPTION
Installs llmauth from this repository into a folder, asks for a provider's key, makes a proxy key, and
registers a task that starts with Windows as LOCAL SERVICE. Run it again to upgrade; keys and settings
stay as they are. Needs a PowerShell that runs as administrator.

.PARAMETER Folder
Where llmauth, its keys and its log go.

.PARAMETER Uninstall
Removes the task; the folder stays.
#>
[CmdletBinding()]
param(
    [string]$Folder = (Join-Path $env:ProgramData "llmauth"),
    [switch]$Uninstall
)

$ErrorActionPreference = "Stop"
$task = "llmauth"
$service = "*S-1-5-19"          # LOCAL SERVICE, by its number: names are translated
$administrators = "*S-1-5-32-544"
$system = "*S-1-5-18"

$me = [Security.Principal.WindowsPrincipal][Security.Principal.WindowsIdentity]::GetCurrent()
if (-not $me.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) {
    throw "Run this in a PowerShell that was started as administrator."
}

function Invoke-Program([string]$Program, [string[]]$Arguments) {
    & $Program @Arguments
    if ($LASTEXITCODE -ne 0) {
        throw "$Program ended with status $LASTEXITCODE."
    }
}

function Write-Lines([string]$File, [string[]]$Lines) {
    # Not Set-Content: its default encoding differs between versions of PowerShell.
    [IO.File]::WriteAllLines($File, $Lines)
}

if (Get-ScheduledTask -TaskName $task -ErrorAction SilentlyContinue) {
    Stop-ScheduledTask -TaskName $task
    Unregister-ScheduledTask -TaskName $task -Confirm:$false
}
if ($Uninstall) {
    Write-Host "The task is removed. Keys and logs are still in $Folder."
    return
}

$python = Invoke-Program "py" @("-c", "import sys; print(sys.base_prefix)")
if ($python.StartsWith($env:USERPROFILE)) {
    throw "The service cannot run $python. Install Python for all users."
}

# The folder belongs to administrators; the service reads it, and writes to the log's folder.
New-Item -ItemType Directory -Force -Path $Folder, (Join-Path $Folder "log") | Out-Null
Invoke-Program "icacls" @(
    $Folder, "/inheritance:r", "/grant:r",
    "${administrators}:(OI)(CI)F", "${system}:(OI)(CI)F", "${service}:(OI)(CI)RX"
)
Invoke-Program "icacls" @((Join-Path $Folder "log"), "/grant:r", "${service}:(OI)(CI)M")

Invoke-Program "py" @("-m", "venv", (Join-Path $Folder "venv"))
$scripts = Join-Path $Folder "venv\Scripts"
$repository = Split-Path -Parent $PSScriptRoot
Invoke-Program (Join-Path $scripts "python.exe") @("-m", "pip", "install", "--upgrade", $repository)

$keys = Join-Path $Folder "keys.txt"
if (-not (Test-Path $keys)) {
    $key = Invoke-Program (Join-Path $scripts "llmauth.exe") @("keygen")
    Write-Lines $keys @($key)
    Write-Host "The proxy's key, for your clients: $key"
}
$provider = Join-Path $Folder "openai.txt"
if (-not (Test-Path $provider)) {
    $secret = Read-Host "The provider's key (OpenAI)" -AsSecureString
    $plain = [Net.NetworkCredential]::new("", $secret).Password
    if ($plain) {
        Write-Lines $provider @($plain)
    }
}
$settings = Join-Path $Folder "llmauth.yaml"
if (-not (Test-Path $settings)) {
    $log = Join-Path $Folder "log\llmauth.log"
    Write-Lines $settings @("server:", "  port: 8000", "logging:", "  file: '$log'")
}

Copy-Item (Join-Path $PSScriptRoot "windows-start.py") (Join-Path $Folder "start.py") -Force
$action = New-ScheduledTaskAction -Execute (Join-Path $scripts "python.exe") -Argument "start.py" `
    -WorkingDirectory $Folder
$trigger = New-ScheduledTaskTrigger -AtStartup
$principal = New-ScheduledTaskPrincipal -UserId "S-1-5-19" -LogonType ServiceAccount
$options = @{
    ExecutionTimeLimit         = [TimeSpan]::Zero
    RestartCount               = 999
    RestartInterval            = New-TimeSpan -Minutes 1
    AllowStartIfOnBatteries    = $true
    DontStopIfGoingOnBatteries = $true
    MultipleInstances          = "IgnoreNew"
}
$settingsSet = New-ScheduledTaskSettingsSet @options
Register-ScheduledTask -TaskName $task -Action $action -Trigger $trigger -Principal $principal `
    -Settings $settingsSet -Description "llmauth, the authenticating proxy in front of LLM APIs" | Out-Null
Start-ScheduledTask -TaskName $task
Write-Host "llmauth is started, and will be with Windows. What it says: $(Join-Path $Folder "log")"
