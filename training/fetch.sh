#!/bin/sh
# sh training/fetch.sh: fonts and photographs for the training world, into runs/resources (about 60 MB on the way).
# Optional: without them the world has fewer fonts and its textures are fractal noise. None of this is ever committed or
# shipped. Needs apt (Debian or Ubuntu), pip and unzip. Fonts: OFL, GPL with font exception or Apache. Photographs to
# train with come from scikit-image (CC0 or public domain); those held out also from scikit-learn (CC-BY).
set -eu
folder=$(dirname "$0")/../runs/resources
mkdir -p "$folder/fonts" "$folder/photographs" "$folder/wheels" "$folder/unpacked"
cd "$folder"
apt-get download fonts-adf-baskervald fonts-adf-gillius fonts-adf-romande fonts-adf-verana fonts-agave fonts-cantarell \
    fonts-cardo fonts-clear-sans fonts-comic-neue fonts-crosextra-caladea fonts-crosextra-carlito fonts-essays1743 \
    fonts-firacode fonts-freefont-ttf fonts-hack fonts-inconsolata fonts-lato fonts-liberation2 fonts-open-sans \
    fonts-quicksand fonts-roboto-unhinted
for package in *.deb; do dpkg -x "$package" unpacked; done
find unpacked -name '*.[ot]tf' -exec cp -n {} fonts/ \;
pip download -q --no-deps --only-binary=:all: --python-version 3.8 scikit-image==0.16.2 -d wheels
pip download -q --no-deps --only-binary=:all: scikit-learn -d wheels
for name in astronaut.png brick.png chelsea.png coffee.png coins.png grass.png gravel.png hubble_deep_field.jpg ihc.png \
    moon.png motorcycle_left.png retina.jpg rocket.jpg; do
    unzip -p wheels/scikit_image*.whl "skimage/data/$name" >"photographs/$name"
done
for name in china.jpg flower.jpg; do
    unzip -p wheels/scikit_learn*.whl "sklearn/datasets/images/$name" >"photographs/$name"
done
rm -r unpacked
