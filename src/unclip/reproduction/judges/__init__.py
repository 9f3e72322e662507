"""What reads an arm, caption by caption: one small module per kind. Each notes records.

A record holds what was seen of one caption or image; records of equal place in two arms belong to
the same caption, scene and noise, so that arms are compared in pairs.
"""
