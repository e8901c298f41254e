# fish completion for banyan; made by scripts/command_docs.py
complete -c banyan -f
complete -c banyan -l help -s h -d 'Print this help message and exit'
complete -c banyan -l version -d 'Display program version information and exit'
complete -c banyan -l data-root -d 'Directory for all that the commands store' -r -F
complete -c banyan -l plain-http -d 'Speak plain HTTP to the registry (loopback and labs)'
complete -c banyan -l creds-file -d 'Docker-style config.json with credentials' -r -F
complete -c banyan -l ca-file -d 'Certificate authorities (PEM) to trust instead of the system\'s' -r -F
complete -c banyan -l json -d 'Print one JSON document on standard output, also of an error'
complete -c banyan -l quiet -s q -d 'No progress and no summary'
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a convert -d 'Convert an image, so that it can start before it has arrived'
complete -c banyan -n '__fish_seen_subcommand_from convert' -l tag -d 'Push the result as an image of its own under this tag' -x
complete -c banyan -n '__fish_seen_subcommand_from convert' -l platform -d 'os/architecture of a multi-platform image; default: this machine\'s' -x
complete -c banyan -n '__fish_seen_subcommand_from convert' -l level -d 'zstd level' -x
complete -c banyan -n '__fish_seen_subcommand_from convert' -l jobs -d 'Threads; 0: one a CPU' -x
complete -c banyan -n '__fish_seen_subcommand_from convert' -l sign-key -d 'Sign the artifact with this private key (`banyan keys generate`)' -r -F
complete -c banyan -n '__fish_seen_subcommand_from convert' -l force -d 'Convert again what has been converted'
complete -c banyan -n '__fish_seen_subcommand_from convert' -l max-layer-bytes -d 'Refuse layers with more file contents' -x
complete -c banyan -n '__fish_seen_subcommand_from convert' -l max-entries -d 'Refuse layers with more names' -x
complete -c banyan -n '__fish_seen_subcommand_from convert' -l max-ratio -d 'Refuse layers that grow more than so many times' -x
complete -c banyan -n '__fish_seen_subcommand_from convert' -l max-ratio-free-bytes -d '--max-ratio holds beyond so many bytes' -x
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a conversions -d 'Show what a registry proxy converts'
complete -c banyan -n '__fish_seen_subcommand_from conversions' -l proxy -d 'The proxy\'s status address: host:port or unix:/path' -x
complete -c banyan -n '__fish_seen_subcommand_from conversions' -l watch -d 'Go on showing, at each change'
complete -c banyan -n '__fish_seen_subcommand_from conversions' -l limit -s n -d 'Lines at most' -x
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a keys -d 'Make and rotate the keys with which artifacts are signed'
complete -c banyan -n '__fish_seen_subcommand_from keys' -l dir -d 'Where the keys lie' -r -F
complete -c banyan -n '__fish_seen_subcommand_from keys' -a generate -d 'Make the first key'
complete -c banyan -n '__fish_seen_subcommand_from keys' -a rotate -d 'Make a new key; the old one stays among the public keys'
complete -c banyan -n '__fish_seen_subcommand_from keys' -a list -d 'Show the public keys, and which one signs'
complete -c banyan -n '__fish_seen_subcommand_from keys' -a public -d 'Print the public key of the one that signs'
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a inspect -d 'Show what a converted image is made of and what it shares'
complete -c banyan -n '__fish_seen_subcommand_from inspect' -l against -d 'Another converted image to compare chunks with' -x
complete -c banyan -n '__fish_seen_subcommand_from inspect' -l platform -d 'os/architecture of a multi-platform image; default: this machine\'s' -x
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a verify -d 'Check a converted image against its digests and its original layers'
complete -c banyan -n '__fish_seen_subcommand_from verify' -l original -d 'Where the original image is, if not in the same repository' -x
complete -c banyan -n '__fish_seen_subcommand_from verify' -l platform -d 'os/architecture of a multi-platform image; default: this machine\'s' -x
complete -c banyan -n '__fish_seen_subcommand_from verify' -l mount -d 'Also mount it and walk the mount (root; needs room for the unpacked image)'
complete -c banyan -n '__fish_seen_subcommand_from verify' -l form -d 'How to mount: auto, file, loop, tree' -x -a 'auto file loop tree'
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a extract -d 'Write a converted image\'s files to a directory'
complete -c banyan -n '__fish_seen_subcommand_from extract' -l platform -d 'os/architecture of a multi-platform image; default: this machine\'s' -x
complete -c banyan -n '__fish_seen_subcommand_from extract' -F
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a mount -d 'Mount an image read-only; its data arrive as they are read'
complete -c banyan -n '__fish_seen_subcommand_from mount' -l form -d 'How: auto (tries the others in order), file, loop, tree' -x -a 'auto file loop tree'
complete -c banyan -n '__fish_seen_subcommand_from mount' -l fill -d 'Fetch the rest in the background'
complete -c banyan -n '__fish_seen_subcommand_from mount' -l read-ahead-kib -d 'What the kernel reads ahead on this mount, in KiB' -x
complete -c banyan -n '__fish_seen_subcommand_from mount' -F
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a umount -d 'Unmount an image; reads that wait for data fail first'
complete -c banyan -n '__fish_seen_subcommand_from umount' -l force -d 'Also when processes use it; what they read of it then fails'
complete -c banyan -n '__fish_seen_subcommand_from umount' -F
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a ls -d 'List images and mounts, and how much of each is on this node'
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a stats -d 'What the agent has read and where it came from, since it began'
complete -c banyan -n '__fish_seen_subcommand_from stats' -F
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a scrub -d 'Check every chunk on this node against its digest; bad ones are fetched again'
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a run -d 'Run a command on an image whose data arrive as they are read'
complete -c banyan -n '__fish_seen_subcommand_from run' -l env -s e -d 'NAME=value for the command; may be repeated' -x
complete -c banyan -n '__fish_seen_subcommand_from run' -l entrypoint -d 'Run this instead of the image\'s entry point' -x
complete -c banyan -n '__fish_seen_subcommand_from run' -l workdir -s w -d 'Working directory; default: the image\'s' -x
complete -c banyan -n '__fish_seen_subcommand_from run' -l user -s u -d 'User or uid[:gid]; default: the image\'s' -x
complete -c banyan -n '__fish_seen_subcommand_from run' -l form -d 'How to mount: auto, file, loop, tree' -x -a 'auto file loop tree'
complete -c banyan -n '__fish_seen_subcommand_from run' -l fill -d 'Fetch the rest of the image in the background'
complete -c banyan -n '__fish_seen_subcommand_from run' -l tty -s t -d 'Give the command this terminal; its first output is then not timed'
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a pull -d 'Have containerd pull an image; says what of it came and what did not'
complete -c banyan -n '__fish_seen_subcommand_from pull' -l containerd -d 'containerd\'s socket' -r -F
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a starts -d 'Show where the time of the latest cold starts went'
complete -c banyan -n '__fish_seen_subcommand_from starts' -l limit -s n -d 'How many, the newest first' -x
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a info -d 'What the node\'s agent is, where it listens, what it holds'
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a prefetch -d 'Fetch a converted image whole, before it is needed'
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a pin -d 'Keep what this node has of an image, whatever the budget'
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a unpin -d 'Let an image be evicted again'
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a drop -d 'Free the room of images that nothing uses'
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a doctor -d 'Say what this node lacks to start images lazily, and how to mend it'
complete -c banyan -n '__fish_seen_subcommand_from doctor' -l containerd -d 'containerd\'s socket' -r -F
complete -c banyan -n '__fish_seen_subcommand_from doctor' -l config -d 'containerd\'s configuration file' -r -F
complete -c banyan -n '__fish_seen_subcommand_from doctor' -l no-containerd -d 'Check only what `banyan mount` and `banyan run` need'
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a install -d 'Make containerd start images lazily; shows each change first'
complete -c banyan -n '__fish_seen_subcommand_from install' -l containerd -d 'Install into containerd\'s configuration'
complete -c banyan -n '__fish_seen_subcommand_from install' -l uninstall -d 'Take back what was installed, and nothing else'
complete -c banyan -n '__fish_seen_subcommand_from install' -l dry-run -d 'Only show what would change'
complete -c banyan -n '__fish_seen_subcommand_from install' -l yes -s y -d 'Do not ask'
complete -c banyan -n '__fish_seen_subcommand_from install' -l config -d 'containerd\'s configuration file' -r -F
complete -c banyan -n '__fish_seen_subcommand_from install' -l snapshotter-socket -d 'Where the agent\'s snapshotter listens ([snapshotter] socket of its configuration)' -r -F
complete -c banyan -n '__fish_seen_subcommand_from install' -l snapshotter-root -d 'Where the agent keeps snapshots ([snapshotter] root); kubelet counts its disk\'s space' -r -F
complete -c banyan -n '__fish_seen_subcommand_from install' -l mirror -d 'host:port of the agent\'s mirror ([mirror] address)' -x
complete -c banyan -n '__fish_seen_subcommand_from install' -l no-mirror -d 'Leave hosts.toml alone'
complete -c banyan -n '__fish_seen_subcommand_from install' -l registry -d 'Send pulls from this registry through the mirror; may be repeated' -x
complete -c banyan -n '__fish_seen_subcommand_from install' -l root -d 'Take every path below this directory' -r -F
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a tree -d 'Draw the trees by which nodes get an image, or list the functions'
complete -c banyan -n '__fish_seen_subcommand_from tree' -l stripe -d 'Only this tree: 1 or 2' -x
complete -c banyan -n '__fish_seen_subcommand_from tree' -l all -d 'Every node, also of a large tree'
complete -c banyan -n '__fish_seen_subcommand_from tree' -l ascii -d 'Lines of ASCII'
complete -c banyan -n '__fish_seen_subcommand_from tree' -l manager -d 'The tree-manager: host:port' -x
complete -c banyan -n '__fish_seen_subcommand_from tree' -l token-file -d 'File with the cluster\'s token' -r -F
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a nodes -d 'List the cluster\'s nodes; switch peer to peer on or off'
complete -c banyan -n '__fish_seen_subcommand_from nodes' -l peer-to-peer -d 'on, or off: every node asks the proxy' -x -a 'on off'
complete -c banyan -n '__fish_seen_subcommand_from nodes' -l manager -d 'The tree-manager: host:port' -x
complete -c banyan -n '__fish_seen_subcommand_from nodes' -l token-file -d 'File with the cluster\'s token' -r -F
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a drain -d 'Let a node feed nobody any more: before it is taken down'
complete -c banyan -n '__fish_seen_subcommand_from drain' -l undo -d 'Let it feed others again'
complete -c banyan -n '__fish_seen_subcommand_from drain' -l manager -d 'The tree-manager: host:port' -x
complete -c banyan -n '__fish_seen_subcommand_from drain' -l token-file -d 'File with the cluster\'s token' -r -F
complete -c banyan -n 'not __fish_seen_subcommand_from convert conversions keys inspect verify extract mount umount ls stats scrub run pull starts info prefetch pin unpin drop doctor install tree nodes drain preheat' -a preheat -d 'Bring an image to nodes before anyone starts it'
complete -c banyan -n '__fish_seen_subcommand_from preheat' -l nodes -d 'These nodes' -x
complete -c banyan -n '__fish_seen_subcommand_from preheat' -l zone -d 'The nodes of this zone' -x
complete -c banyan -n '__fish_seen_subcommand_from preheat' -l count -d 'So many of them, spread over the zones; default: all' -x
complete -c banyan -n '__fish_seen_subcommand_from preheat' -l detach -d 'Tell them, and do not wait'
complete -c banyan -n '__fish_seen_subcommand_from preheat' -l manager -d 'The tree-manager: host:port' -x
complete -c banyan -n '__fish_seen_subcommand_from preheat' -l token-file -d 'File with the cluster\'s token' -r -F
