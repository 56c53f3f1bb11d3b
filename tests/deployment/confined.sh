#!/bin/sh
# Run a command as the image would: confined.sh FOLDER VENV BASE PORT ARGUMENT…
#   FOLDER  what `dinomill deploy` wrote;  VENV  only its requirements;  BASE  the interpreter that VENV was made with
# In a mount namespace of its own: /opt as the Dockerfile lays it out, everything read-only but the two volumes,
# then user 10001 without a capability and with the Dockerfile's environment alone.
set -eu
folder=$1 venv=$2 base=$3 port=$4
shift 4
if [ -z "${DINOMILL_CONFINED:-}" ]; then
    DINOMILL_CONFINED=1 exec unshare --mount --propagation private -- "$0" "$folder" "$venv" "$base" "$port" "$@"
fi
mkdir -p /run/dinomill-image
mount -t tmpfs -o mode=755 image /run/dinomill-image
cd /run/dinomill-image
mkdir -p new base venv
mount --bind "$venv" venv
mount --bind "$base" base
mkdir -p new/venv new/dinomill new/base
cp -r "$folder/app" "$folder/package" new/dinomill/
mv new/dinomill/app/settings.json new/dinomill/settings.json
chmod -R a+rX new/dinomill
# The interpreter may lie in somebody's home, which user 10001 does not see: the way to it is opened, and nothing else.
way=$(dirname "$base")
while [ "$(dirname "$way")" != / ]; do way=$(dirname "$way"); done
mount -t tmpfs -o mode=755 opt /opt
mkdir -p /opt/venv /opt/dinomill
mount --bind /run/dinomill-image/venv /opt/venv
mount --bind /run/dinomill-image/new/dinomill /opt/dinomill
if [ "$way" != /usr ] && [ "$way" != /opt ]; then
    mount -t tmpfs -o mode=755 way "$way"
    mkdir -p "$base"
    mount --bind /run/dinomill-image/base "$base"
fi
mount -t tmpfs -o mode=755 var /var/lib
mkdir -p /var/lib/dinomill
mount -t tmpfs -o mode=700,uid=10001,gid=10001 state /var/lib/dinomill
mount -t tmpfs -o mode=1777 scratch /tmp
# The image has no Java but the wheel's.
for java in /usr/bin/java /usr/local/bin/java; do
    if [ -e "$java" ]; then mount --bind /dev/null "$java"; fi
done
mount -o remount,bind,ro /opt/venv
mount -o remount,bind,ro /opt/dinomill
mount -o remount,ro opt /opt
mount -o remount,bind,ro /
cd /var/lib/dinomill
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
    env -i PATH=/opt/venv/bin:/usr/bin:/bin PYTHONPATH=/opt/dinomill/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/var/lib/dinomill OMP_WAIT_POLICY=PASSIVE DINOMILL_PACKAGE=/opt/dinomill/package \
    DINOMILL_SETTINGS=/opt/dinomill/settings.json DINOMILL_RUN=/var/lib/dinomill/run \
    DINOMILL_PORT="$port" DINOMILL_HOST=127.0.0.1 "$@"
